"""Revisions of the product's own tables, for Alembic."""
