"""Observers of a search: the console and Weights & Biases."""
