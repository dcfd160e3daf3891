"""What choosing on the patients that also judge flatters, taken out of a score."""
