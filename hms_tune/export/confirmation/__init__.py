"""Candidates that were trained again, ranked."""
