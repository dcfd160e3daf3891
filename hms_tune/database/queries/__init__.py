"""Questions about studies, and what is written for people, by subject."""
