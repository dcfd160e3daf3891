"""What is asked at each trial is found by an index, and duties of a study are leased by rows of ours."""

from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Keep at each trial how far it came and at what estimate, and at each rung its study."""
    for statements in (_TRIALS, _RUNGS, _ATTEMPTS, _DUTIES):
        op.execute(statements)


_TRIALS = """
ALTER TABLE hms_tune.trials ADD COLUMN rung integer, ADD COLUMN estimate double precision;
UPDATE hms_tune.trials SET rung = last.step, estimate = last.estimate
FROM (SELECT DISTINCT ON (trial_id) * FROM hms_tune.rungs ORDER BY trial_id, step DESC) AS last
WHERE last.trial_id = trials.trial_id;
UPDATE hms_tune.trials SET estimate = trial_values.value
FROM trial_values
WHERE trial_values.trial_id = trials.last_optuna_trial_id AND trials.state = 'complete';
CREATE INDEX trials_by_state ON hms_tune.trials (study_id, state, estimate, trial_id) INCLUDE (rung);
CREATE INDEX trials_by_number ON hms_tune.trials (study_id, number);
DROP INDEX hms_tune.ix_hms_tune_trials_study_id;
"""
# Unqualified names are Optuna's tables.

_RUNGS = """
ALTER TABLE hms_tune.rungs ADD COLUMN study_id integer;
UPDATE hms_tune.rungs SET study_id = trials.study_id
FROM hms_tune.trials WHERE trials.trial_id = rungs.trial_id;
ALTER TABLE hms_tune.rungs ALTER COLUMN study_id SET NOT NULL;
CREATE INDEX ranking_at_rung ON hms_tune.rungs (study_id, step, estimate, trial_id);
"""

_ATTEMPTS = """
DROP INDEX hms_tune.attempts_of_study;
CREATE INDEX attempts_of_worker ON hms_tune.attempts (study_id, worker_id);
CREATE INDEX attempts_at_trial ON hms_tune.attempts (trial_id);
"""

_DUTIES = """
CREATE TABLE hms_tune.duties (
    study_id integer NOT NULL REFERENCES hms_tune.studies (study_id) ON DELETE CASCADE,
    duty text NOT NULL,
    holder text,
    until timestamptz,
    PRIMARY KEY (study_id, duty)
);
"""
