"""What a trial holds in memory, planned before it starts."""
