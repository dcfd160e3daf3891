"""A bundle as the teacher of others."""
