"""Tables, columns and attributes say trial and attempt; their states are checked.

==================  ==================
0.1.0               now
==================  ==================
lineages            trials
leases              attempts
trial_records       attempt_records
notices             outbox
==================  ==================

A trial was ``claimed``, ``waiting`` or ``ended`` with an outcome beside; now its state says all. What was
declined is infeasible, what was handed back is requeued, what was wanted is requested.
"""

from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Rename, and bring what stands in the rows to the names of today."""
    for statements in (_TRIALS, _ATTEMPTS, _RECORDS, _OUTBOX_AND_WORKERS, _OPTUNAS_ATTRIBUTES, _GUARD):
        op.execute(statements)


_TRIALS = """
ALTER TABLE hms_tune.lineages RENAME TO trials;
ALTER SEQUENCE hms_tune.lineages_lineage_id_seq RENAME TO trials_trial_id_seq;
ALTER INDEX hms_tune.ix_hms_tune_lineages_study_id RENAME TO ix_hms_tune_trials_study_id;
ALTER TABLE hms_tune.trials RENAME CONSTRAINT lineages_pkey TO trials_pkey;
ALTER TABLE hms_tune.trials RENAME CONSTRAINT lineages_study_id_fkey TO trials_study_id_fkey;
ALTER TABLE hms_tune.trials RENAME CONSTRAINT lineage_wanted TO trial_requested;
ALTER TABLE hms_tune.trials DROP CONSTRAINT lineage_state;
ALTER TABLE hms_tune.trials RENAME COLUMN lineage_id TO trial_id;
ALTER TABLE hms_tune.trials RENAME COLUMN wanted TO requested;
ALTER TABLE hms_tune.trials RENAME COLUMN first_number TO number;
ALTER TABLE hms_tune.trials RENAME COLUMN last_trial_id TO last_optuna_trial_id;
UPDATE hms_tune.trials SET state = CASE
    WHEN state = 'claimed' THEN 'running'
    WHEN outcome = 'declined' THEN 'infeasible'
    WHEN state = 'ended' THEN outcome
    ELSE state
END;
ALTER TABLE hms_tune.trials
    DROP COLUMN outcome,
    ADD CONSTRAINT trial_state
        CHECK (state IN ('waiting', 'running', 'complete', 'pruned', 'failed', 'infeasible')),
    ADD CONSTRAINT trial_ended
        CHECK ((ended_at IS NOT NULL) = (state IN ('complete', 'pruned', 'failed', 'infeasible')));
"""

_ATTEMPTS = """
ALTER TABLE hms_tune.leases RENAME TO attempts;
ALTER SEQUENCE hms_tune.leases_lease_id_seq RENAME TO attempts_lease_id_seq;
ALTER INDEX hms_tune.one_live_lease RENAME TO one_live_attempt;
ALTER INDEX hms_tune.one_lease_per_attempt RENAME TO one_attempt_per_optuna_trial;
ALTER INDEX hms_tune.leases_of_study RENAME TO attempts_of_study;
ALTER INDEX hms_tune.live_leases RENAME TO live_attempts;
ALTER TABLE hms_tune.attempts RENAME CONSTRAINT leases_pkey TO attempts_pkey;
ALTER TABLE hms_tune.attempts RENAME CONSTRAINT leases_token_key TO attempts_token_key;
ALTER TABLE hms_tune.attempts RENAME CONSTRAINT leases_study_id_fkey TO attempts_study_id_fkey;
ALTER TABLE hms_tune.attempts RENAME CONSTRAINT leases_lineage_id_fkey TO attempts_trial_id_fkey;
ALTER TABLE hms_tune.attempts RENAME COLUMN trial_id TO optuna_trial_id;
ALTER TABLE hms_tune.attempts RENAME COLUMN lineage_id TO trial_id;
ALTER TABLE hms_tune.attempts RENAME COLUMN outcome TO state;
UPDATE hms_tune.attempts SET state = CASE state
    WHEN 'declined' THEN 'infeasible'
    WHEN 'handed_back' THEN 'requeued'
    ELSE 'running'
END WHERE state IS NULL OR state IN ('declined', 'handed_back');
ALTER TABLE hms_tune.attempts
    ALTER COLUMN state SET NOT NULL,
    ALTER COLUMN state SET DEFAULT 'running',
    ADD CONSTRAINT attempt_state
        CHECK (state IN ('running', 'complete', 'pruned', 'failed', 'infeasible', 'requeued', 'lost')),
    ADD CONSTRAINT attempt_ended CHECK ((ended_at IS NULL) = (state = 'running'));
"""

_RECORDS = """
ALTER TABLE hms_tune.trial_records RENAME TO attempt_records;
ALTER TABLE hms_tune.attempt_records RENAME CONSTRAINT trial_records_pkey TO attempt_records_pkey;
ALTER TABLE hms_tune.attempt_records
    RENAME CONSTRAINT trial_records_study_id_fkey TO attempt_records_study_id_fkey;
ALTER TABLE hms_tune.attempt_records ADD COLUMN closed_at timestamptz;
UPDATE hms_tune.attempt_records SET closed_at = written_at WHERE outcome IS NOT NULL;
ALTER TABLE hms_tune.attempt_records DROP COLUMN outcome, DROP COLUMN lineage;
"""
# How an attempt ended, and of which trial it was, stands in attempts.

_OUTBOX_AND_WORKERS = """
ALTER TABLE hms_tune.notices RENAME TO outbox;
ALTER TABLE hms_tune.outbox RENAME CONSTRAINT notices_pkey TO outbox_pkey;
ALTER TABLE hms_tune.outbox RENAME CONSTRAINT notices_study_id_fkey TO outbox_study_id_fkey;
ALTER TABLE hms_tune.outbox RENAME COLUMN happening TO event;
ALTER TABLE hms_tune.workers RENAME CONSTRAINT worker_wanted TO worker_requested;
ALTER TABLE hms_tune.workers RENAME COLUMN wanted TO requested;
"""

_OPTUNAS_ATTRIBUTES = """
UPDATE trial_user_attributes SET
    key = CASE key WHEN 'lineage' THEN 'trial' ELSE 'attempt_state' END,
    value_json = CASE value_json
        WHEN '"declined"' THEN '"infeasible"'
        WHEN '"handed_back"' THEN '"requeued"'
        ELSE value_json
    END
WHERE key IN ('lineage', 'ended')
AND trial_id IN (SELECT trials.trial_id FROM trials JOIN hms_tune.studies USING (study_id));
"""
# Unqualified names are Optuna's tables.

_GUARD = """
CREATE VIEW hms_tune.lineages AS SELECT 'these tables are of a later hms-tune than 0.1' AS note;
"""
# 0.1.0 looks for no revision. It would make its tables anew beside these and give out the same trials again;
# this view lets it end with an error instead, as it finds no table of that name to complete.
