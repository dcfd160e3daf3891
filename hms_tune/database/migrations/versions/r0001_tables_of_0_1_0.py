"""The tables of 0.1.0, made new or completed.

0.1.0 made what was missing when it opened a database, but only tables and columns: an index or a constraint
that came later is missing where the table was older.
"""

from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Bring any database of 0.1.x, or an empty one, to the tables of 0.1.0."""
    for statements in (_TABLES, _LATER_COLUMNS, _LATER_CONSTRAINTS, _INDEXES):
        op.execute(statements)
    # A login that may only read may have been given the tables one by one, before there was this one.
    op.execute("GRANT SELECT ON hms_tune.schema_version TO PUBLIC")


_TABLES = """
CREATE TABLE IF NOT EXISTS hms_tune.studies (
    study_id integer PRIMARY KEY,
    name text NOT NULL UNIQUE,
    state text NOT NULL DEFAULT 'running',
    budget_trials integer,
    budget_hours double precision,
    budget_gpu_hours double precision,
    slots_started integer NOT NULL DEFAULT 0,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    started_at timestamptz,
    CONSTRAINT study_state CHECK (state IN ('running', 'paused', 'stopped'))
);
CREATE TABLE IF NOT EXISTS hms_tune.workers (
    worker_id text PRIMARY KEY,
    study_id integer NOT NULL REFERENCES hms_tune.studies ON DELETE CASCADE,
    host text NOT NULL,
    pid integer NOT NULL,
    process_started bigint,
    machine text,
    version text NOT NULL,
    devices text NOT NULL,
    slots integer NOT NULL,
    wanted text NOT NULL DEFAULT 'work',
    started_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    last_seen timestamptz NOT NULL DEFAULT clock_timestamp(),
    stopped_at timestamptz,
    usage jsonb
);
CREATE TABLE IF NOT EXISTS hms_tune.worker_minutes (
    worker_id text REFERENCES hms_tune.workers ON DELETE CASCADE,
    minute timestamptz,
    study_id integer NOT NULL,
    images bigint NOT NULL,
    PRIMARY KEY (worker_id, minute)
);
CREATE TABLE IF NOT EXISTS hms_tune.notices (
    study_id integer REFERENCES hms_tune.studies ON DELETE CASCADE,
    happening text,
    subject text,
    message jsonb NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    taken_by text,
    taken_at timestamptz,
    sent_at timestamptz,
    failure text,
    PRIMARY KEY (study_id, happening, subject)
);
CREATE TABLE IF NOT EXISTS hms_tune.lineages (
    lineage_id bigserial PRIMARY KEY,
    study_id integer NOT NULL REFERENCES hms_tune.studies ON DELETE CASCADE,
    state text NOT NULL,
    wanted text NOT NULL DEFAULT 'run',
    given jsonb,
    losses integer NOT NULL DEFAULT 0,
    first_number integer,
    last_trial_id integer,
    outcome text,
    reason text,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    ended_at timestamptz,
    CONSTRAINT lineage_state CHECK (state IN ('claimed', 'waiting', 'ended'))
);
CREATE TABLE IF NOT EXISTS hms_tune.leases (
    lease_id bigserial PRIMARY KEY,
    study_id integer NOT NULL REFERENCES hms_tune.studies ON DELETE CASCADE,
    lineage_id bigint NOT NULL REFERENCES hms_tune.lineages ON DELETE CASCADE,
    worker_id text NOT NULL,
    slot text NOT NULL,
    host text NOT NULL,
    pid integer NOT NULL,
    process_started bigint,
    machine text,
    gpus double precision NOT NULL DEFAULT '0',
    token text,
    trial_id integer,
    number integer,
    claimed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    expires_at timestamptz NOT NULL,
    ended_at timestamptz,
    outcome text
);
CREATE TABLE IF NOT EXISTS hms_tune.trial_records (
    study_id integer REFERENCES hms_tune.studies ON DELETE CASCADE,
    number integer,
    lineage integer NOT NULL,
    config jsonb,
    folds jsonb,
    outcome text,
    reason text,
    traceback text,
    device text,
    device_name text,
    gpus double precision NOT NULL DEFAULT '0',
    peak_memory bigint,
    data_digest text,
    version text,
    run_url text,
    note text,
    written_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (study_id, number)
);
CREATE TABLE IF NOT EXISTS hms_tune.out_of_fold (
    study_id integer REFERENCES hms_tune.studies ON DELETE CASCADE,
    number integer,
    content bytea NOT NULL,
    published_at timestamptz,
    written_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (study_id, number)
);
"""

_LATER_COLUMNS = """
ALTER TABLE hms_tune.studies ADD COLUMN IF NOT EXISTS budget_gpu_hours double precision;
ALTER TABLE hms_tune.workers
    ADD COLUMN IF NOT EXISTS wanted text NOT NULL DEFAULT 'work',
    ADD COLUMN IF NOT EXISTS usage jsonb;
ALTER TABLE hms_tune.lineages
    ADD COLUMN IF NOT EXISTS wanted text NOT NULL DEFAULT 'run',
    ADD COLUMN IF NOT EXISTS given jsonb;
ALTER TABLE hms_tune.leases
    ADD COLUMN IF NOT EXISTS gpus double precision NOT NULL DEFAULT '0',
    ADD COLUMN IF NOT EXISTS token text;
ALTER TABLE hms_tune.out_of_fold ADD COLUMN IF NOT EXISTS published_at timestamptz;
"""

_LATER_CONSTRAINTS = """
ALTER TABLE hms_tune.workers
    DROP CONSTRAINT IF EXISTS worker_wanted,
    ADD CONSTRAINT worker_wanted CHECK (wanted IN ('work', 'finish', 'leave'));
ALTER TABLE hms_tune.lineages
    DROP CONSTRAINT IF EXISTS lineage_wanted,
    ADD CONSTRAINT lineage_wanted CHECK (wanted IN ('run', 'stop'));
ALTER TABLE hms_tune.leases
    DROP CONSTRAINT IF EXISTS leases_token_key,
    ADD CONSTRAINT leases_token_key UNIQUE (token);
"""

_INDEXES = """
CREATE INDEX IF NOT EXISTS ix_hms_tune_workers_study_id ON hms_tune.workers (study_id);
CREATE INDEX IF NOT EXISTS minutes_of_study ON hms_tune.worker_minutes (study_id, minute);
CREATE INDEX IF NOT EXISTS ix_hms_tune_lineages_study_id ON hms_tune.lineages (study_id);
CREATE UNIQUE INDEX IF NOT EXISTS one_live_lease ON hms_tune.leases (lineage_id) WHERE ended_at IS NULL;
CREATE UNIQUE INDEX IF NOT EXISTS one_lease_per_attempt ON hms_tune.leases (trial_id);
CREATE INDEX IF NOT EXISTS leases_of_study ON hms_tune.leases (study_id);
CREATE INDEX IF NOT EXISTS live_leases ON hms_tune.leases (study_id) WHERE ended_at IS NULL;
"""
