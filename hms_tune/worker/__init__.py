"""``hms-tune worker``: slots that claim, train and report trials."""
