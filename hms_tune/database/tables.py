"""What the fleet remembers beside Optuna's own tables, in a schema of its own.

studies         what people want of a study: its budget, and whether it runs
workers         who is at work, and whether people want it to leave
worker_minutes  how many images a worker trained in a minute
lineages        one row per trial: the unit of the budget. A trial that loses its worker keeps its row; one
                that a person enqueued has its row, with the values given, before any slot takes it
leases          one row per attempt: which slot runs it, until when. Its number is the fencing token
notices         what people are told by webhook or command: one row per happening, which one worker takes
trial_records   one row per attempt: what it told. Dashboards send Optuna's attributes with every page
out_of_fold     predictions of each trial that was the best when it ended

Every time is the database's. What changes here needs a revision in ``migrations/versions``, which makes it so
in a database.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    ColumnElement,
    DateTime,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

SCHEMA = "hms_tune"
metadata = MetaData(schema=SCHEMA)

_now = text("clock_timestamp()")

studies = Table(
    "studies",
    metadata,
    Column("study_id", Integer, primary_key=True, autoincrement=False),
    Column("name", Text, nullable=False, unique=True),
    Column("state", Text, nullable=False, server_default="running"),
    Column("budget_trials", Integer),
    Column("budget_hours", Double),
    Column("budget_gpu_hours", Double),
    Column("slots_started", Integer, nullable=False, server_default="0"),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=_now),
    Column("started_at", DateTime(timezone=True)),
    CheckConstraint("state IN ('running', 'paused', 'stopped')", name="study_state"),
)

workers = Table(
    "workers",
    metadata,
    Column("worker_id", Text, primary_key=True),
    Column(
        "study_id", Integer, ForeignKey(studies.c.study_id, ondelete="CASCADE"), nullable=False, index=True
    ),
    Column("host", Text, nullable=False),
    Column("pid", Integer, nullable=False),
    Column("process_started", BigInteger),
    Column("machine", Text),
    Column("version", Text, nullable=False),
    Column("devices", Text, nullable=False),
    Column("slots", Integer, nullable=False),
    Column("wanted", Text, nullable=False, server_default="work"),
    Column("started_at", DateTime(timezone=True), nullable=False, server_default=_now),
    Column("last_seen", DateTime(timezone=True), nullable=False, server_default=_now),
    Column("stopped_at", DateTime(timezone=True)),
    Column("usage", JSONB(none_as_null=True)),
    CheckConstraint("wanted IN ('work', 'finish', 'leave')", name="worker_wanted"),
)

worker_minutes = Table(
    "worker_minutes",
    metadata,
    Column("worker_id", Text, ForeignKey(workers.c.worker_id, ondelete="CASCADE"), primary_key=True),
    Column("minute", DateTime(timezone=True), primary_key=True),
    Column("study_id", Integer, nullable=False),
    Column("images", BigInteger, nullable=False),
)
Index("minutes_of_study", worker_minutes.c.study_id, worker_minutes.c.minute)

notices = Table(
    "notices",
    metadata,
    Column("study_id", Integer, ForeignKey(studies.c.study_id, ondelete="CASCADE"), primary_key=True),
    Column("happening", Text, primary_key=True),
    Column("subject", Text, primary_key=True),
    Column("message", JSONB, nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=_now),
    Column("taken_by", Text),
    Column("taken_at", DateTime(timezone=True)),
    Column("sent_at", DateTime(timezone=True)),
    Column("failure", Text),
)

lineages = Table(
    "lineages",
    metadata,
    Column("lineage_id", BigInteger, primary_key=True),
    Column(
        "study_id", Integer, ForeignKey(studies.c.study_id, ondelete="CASCADE"), nullable=False, index=True
    ),
    Column("state", Text, nullable=False),
    Column("wanted", Text, nullable=False, server_default="run"),
    Column("given", JSONB(none_as_null=True)),
    Column("losses", Integer, nullable=False, server_default="0"),
    Column("first_number", Integer),
    Column("last_trial_id", Integer),
    Column("outcome", Text),
    Column("reason", Text),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=_now),
    Column("ended_at", DateTime(timezone=True)),
    CheckConstraint("state IN ('claimed', 'waiting', 'ended')", name="lineage_state"),
    CheckConstraint("wanted IN ('run', 'stop')", name="lineage_wanted"),
)

leases = Table(
    "leases",
    metadata,
    Column("lease_id", BigInteger, primary_key=True),
    Column("study_id", Integer, ForeignKey(studies.c.study_id, ondelete="CASCADE"), nullable=False),
    Column("lineage_id", BigInteger, ForeignKey(lineages.c.lineage_id, ondelete="CASCADE"), nullable=False),
    Column("worker_id", Text, nullable=False),
    Column("slot", Text, nullable=False),
    Column("host", Text, nullable=False),
    Column("pid", Integer, nullable=False),
    Column("process_started", BigInteger),
    Column("machine", Text),
    Column("gpus", Double, nullable=False, server_default="0"),
    Column("token", Text, unique=True),
    Column("trial_id", Integer),
    Column("number", Integer),
    Column("claimed_at", DateTime(timezone=True), nullable=False, server_default=_now),
    Column("expires_at", DateTime(timezone=True), nullable=False),
    Column("ended_at", DateTime(timezone=True)),
    Column("outcome", Text),
)

# However a claim and a recovery interleave, the database itself lets no trial have two live attempts and no
# attempt two leases.
Index("one_live_lease", leases.c.lineage_id, unique=True, postgresql_where=leases.c.ended_at.is_(None))
Index("one_lease_per_attempt", leases.c.trial_id, unique=True)
Index("leases_of_study", leases.c.study_id)
Index("live_leases", leases.c.study_id, postgresql_where=leases.c.ended_at.is_(None))

trial_records = Table(
    "trial_records",
    metadata,
    Column("study_id", Integer, ForeignKey(studies.c.study_id, ondelete="CASCADE"), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("lineage", Integer, nullable=False),
    Column("config", JSONB),
    Column("folds", JSONB),
    Column("outcome", Text),
    Column("reason", Text),
    Column("traceback", Text),
    Column("device", Text),
    Column("device_name", Text),
    Column("gpus", Double, nullable=False, server_default="0"),
    Column("peak_memory", BigInteger),
    Column("data_digest", Text),
    Column("version", Text),
    Column("run_url", Text),
    Column("note", Text),
    Column("written_at", DateTime(timezone=True), nullable=False, server_default=_now),
)

out_of_fold = Table(
    "out_of_fold",
    metadata,
    Column("study_id", Integer, ForeignKey(studies.c.study_id, ondelete="CASCADE"), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("content", LargeBinary, nullable=False),
    Column("published_at", DateTime(timezone=True)),
    Column("written_at", DateTime(timezone=True), nullable=False, server_default=_now),
)


def now() -> ColumnElement[object]:
    """The database's clock at this statement (``now()`` would be that of the transaction's begin)."""
    return func.clock_timestamp()


def seconds_from_now(seconds: float) -> ColumnElement[object]:
    """A time by the database's clock."""
    return func.clock_timestamp() + func.make_interval(0, 0, 0, 0, 0, 0, seconds)
