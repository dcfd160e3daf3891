"""Trials set aside and taken up again, and the model that chooses what begins."""
