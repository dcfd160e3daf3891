"""Connections to the database: addresses, settings, and what becomes of each error."""
