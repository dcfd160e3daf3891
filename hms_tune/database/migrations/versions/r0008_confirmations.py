"""Leading trials of a study are confirmed in a study of their own."""

from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Keep which study confirms which, and how the candidates stand."""
    op.execute(_CONFIRMATIONS)


_CONFIRMATIONS = """
CREATE TABLE hms_tune.confirmations (
    study_id integer PRIMARY KEY REFERENCES hms_tune.studies (study_id) ON DELETE CASCADE,
    confirms text NOT NULL UNIQUE,
    candidates jsonb NOT NULL,
    ranking jsonb
);
"""
