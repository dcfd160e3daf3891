"""A competition folder: its layout, checks, labels, folds, and the store that training reads."""
