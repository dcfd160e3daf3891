"""Folds of one trial may be trained by several workers at once."""

from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Let attempts help another one with a fold."""
    op.execute(_FOLDS)


_FOLDS = """
ALTER TABLE hms_tune.attempts
    ADD COLUMN helps boolean NOT NULL DEFAULT false,
    ADD COLUMN fold integer,
    ADD COLUMN shared_until integer,
    ADD CONSTRAINT attempt_helps CHECK (NOT helps OR (fold IS NOT NULL AND optuna_trial_id IS NULL));
DROP INDEX hms_tune.one_live_attempt;
CREATE UNIQUE INDEX one_live_attempt ON hms_tune.attempts (trial_id) WHERE ended_at IS NULL AND NOT helps;
CREATE UNIQUE INDEX one_live_helper ON hms_tune.attempts (trial_id, fold) WHERE ended_at IS NULL AND helps;
"""
