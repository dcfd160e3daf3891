"""Trials from claim to end: who may run which, and what happens when a worker dies."""
