"""A trial may be paused at a rung, with its estimate there."""

from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Let trials and attempts be paused, and keep what they had reached."""
    op.execute(_STATES)
    op.execute(_RUNGS)


_STATES = """
ALTER TABLE hms_tune.trials
    DROP CONSTRAINT trial_state,
    ADD CONSTRAINT trial_state
        CHECK (state IN ('waiting', 'running', 'paused', 'complete', 'pruned', 'failed', 'infeasible'));
ALTER TABLE hms_tune.attempts
    DROP CONSTRAINT attempt_state,
    ADD CONSTRAINT attempt_state CHECK (
        state IN ('running', 'complete', 'pruned', 'failed', 'infeasible', 'paused', 'requeued', 'lost')
    );
"""

_RUNGS = """
CREATE TABLE hms_tune.rungs (
    trial_id bigint NOT NULL REFERENCES hms_tune.trials (trial_id) ON DELETE CASCADE,
    step integer NOT NULL,
    estimate double precision NOT NULL,
    PRIMARY KEY (trial_id, step)
);
"""
