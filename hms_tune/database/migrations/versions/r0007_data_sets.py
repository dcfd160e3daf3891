"""A study keeps to one data set, and each worker says which PyTorch it runs."""

from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Keep what tells a study's data set from others; a study whose trials agree on one keeps to that."""
    op.execute(_DATA_SETS)
    op.execute("ALTER TABLE hms_tune.workers ADD COLUMN torch text")


_DATA_SETS = """
CREATE TABLE hms_tune.data_sets (
    study_id integer PRIMARY KEY REFERENCES hms_tune.studies (study_id) ON DELETE CASCADE,
    digest text NOT NULL,
    folds text,
    eegs integer,
    rows integer,
    patients integer,
    written_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
INSERT INTO hms_tune.data_sets (study_id, digest)
SELECT study_id, min(data_digest) FROM hms_tune.attempt_records
GROUP BY study_id HAVING count(DISTINCT data_digest) = 1;
"""
