"""What the fleet remembers beside Optuna's own tables, in a schema of its own.

studies          what people request of a study: its budget, and whether it runs
workers          who is at work, and whether people request that it leaves
worker_minutes   how many images a worker trained in a minute
trials           one row per trial: the unit of the budget. A trial that loses its worker keeps its row; one
                 that a person enqueued has its row, with the values given, before any slot claims it
attempts         one row per attempt: which slot has the lease, until when, and how it ended. ``lease_id`` is
                 the fencing token; ``optuna_trial_id`` and ``number`` are Optuna's, of the attempt's trial.
                 A row that ``helps`` trains one ``fold`` for the trial's attempt, and has none of Optuna's.
                 In other rows ``fold`` is where the attempt is, and helpers may take those after it, before
                 ``shared_until``
outbox           what people are told by webhook or command: one row per event, which one worker takes
attempt_records  what each attempt told; closed when it ended. Dashboards send Optuna's attributes with every
                 page, so these rows are ours
rungs            the estimate of each trial at each rung that it has reached
duties           what one process at a time does for a study: who has it, and until when
out_of_fold      predictions of each trial that was the best when it ended
data_sets        what tells the study's data set from others; its first worker writes it
confirmations    studies that train the leading trials of another again, and how the candidates stand

A trial's ``number`` is that of its first attempt, ``rung`` the last step at which it paused or ended, and
``estimate`` its estimate there, which of a complete trial is its value. States and the steps between them are
in :mod:`hms_tune.trial_state`; the database refuses any other state.
Every time is the database's. What changes here needs a revision in ``migrations/versions``, which makes it so
in a database.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

from sqlalchemy import (
    BigInteger,
    Boolean,
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
    TypeDecorator,
    false,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from hms_tune.trial_state import AttemptState, TrialState

SCHEMA = "hms_tune"
metadata = MetaData(schema=SCHEMA)

_now = text("clock_timestamp()")


class _State(TypeDecorator[StrEnum]):
    """Text that is read as a member of an enumeration."""

    impl = Text
    cache_ok = True

    def __init__(self, states: type[StrEnum]) -> None:
        super().__init__()
        self.states = states

    def process_bind_param(self, value: StrEnum | None, dialect: object) -> str | None:
        """The text that is written."""
        return None if value is None else self.states(value).value

    def process_result_value(self, value: str | None, dialect: object) -> StrEnum | None:
        """The member that is read."""
        return None if value is None else self.states(value)


def _is_one_of(column: str, states: Iterable[StrEnum]) -> str:
    return f"{column} IN ({', '.join(repr(state.value) for state in states)})"


studies = Table(
    "studies",
    metadata,
    Column("study_id", Integer, primary_key=True, autoincrement=False),
    Column("name", Text, nullable=False, unique=True),
    Column("state", Text, nullable=False, server_default="running"),
    Column("budget_trials", Integer),
    Column("budget_hours", Double),
    Column("budget_gpu_hours", Double),
    Column("budget_patience", Integer),
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
    Column("torch", Text),
    Column("devices", Text, nullable=False),
    Column("slots", Integer, nullable=False),
    Column("requested", Text, nullable=False, server_default="work"),
    Column("started_at", DateTime(timezone=True), nullable=False, server_default=_now),
    Column("last_seen", DateTime(timezone=True), nullable=False, server_default=_now),
    Column("stopped_at", DateTime(timezone=True)),
    Column("usage", JSONB(none_as_null=True)),
    CheckConstraint("requested IN ('work', 'finish', 'leave')", name="worker_requested"),
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

outbox = Table(
    "outbox",
    metadata,
    Column("study_id", Integer, ForeignKey(studies.c.study_id, ondelete="CASCADE"), primary_key=True),
    Column("event", Text, primary_key=True),
    Column("subject", Text, primary_key=True),
    Column("message", JSONB, nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=_now),
    Column("taken_by", Text),
    Column("taken_at", DateTime(timezone=True)),
    Column("sent_at", DateTime(timezone=True)),
    Column("failure", Text),
)

trials = Table(
    "trials",
    metadata,
    Column("trial_id", BigInteger, primary_key=True),
    Column("study_id", Integer, ForeignKey(studies.c.study_id, ondelete="CASCADE"), nullable=False),
    Column("state", _State(TrialState), nullable=False),
    Column("requested", Text, nullable=False, server_default="run"),
    Column("given", JSONB(none_as_null=True)),
    Column("losses", Integer, nullable=False, server_default="0"),
    Column("number", Integer),
    Column("last_optuna_trial_id", Integer),
    Column("reason", Text),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=_now),
    Column("ended_at", DateTime(timezone=True)),
    Column("rung", Integer),
    Column("estimate", Double),
    CheckConstraint(_is_one_of("state", TrialState), name="trial_state"),
    CheckConstraint(
        f"(ended_at IS NOT NULL) = ({_is_one_of('state', [each for each in TrialState if each.is_final])})",
        name="trial_ended",
    ),
    CheckConstraint("requested IN ('run', 'stop')", name="trial_requested"),
)
# What each claim, pause and end asks stays cheap in a study of many trials.
Index(
    "trials_by_state",
    trials.c.study_id,
    trials.c.state,
    trials.c.estimate,
    trials.c.trial_id,
    postgresql_include=["rung"],
)
Index("trials_by_number", trials.c.study_id, trials.c.number)

attempts = Table(
    "attempts",
    metadata,
    Column("lease_id", BigInteger, primary_key=True),
    Column("study_id", Integer, ForeignKey(studies.c.study_id, ondelete="CASCADE"), nullable=False),
    Column("trial_id", BigInteger, ForeignKey(trials.c.trial_id, ondelete="CASCADE"), nullable=False),
    Column("worker_id", Text, nullable=False),
    Column("slot", Text, nullable=False),
    Column("host", Text, nullable=False),
    Column("pid", Integer, nullable=False),
    Column("process_started", BigInteger),
    Column("machine", Text),
    Column("gpus", Double, nullable=False, server_default="0"),
    Column("token", Text, unique=True),
    Column("optuna_trial_id", Integer),
    Column("number", Integer),
    Column("helps", Boolean, nullable=False, server_default=false()),
    Column("fold", Integer),
    Column("shared_until", Integer),
    Column("claimed_at", DateTime(timezone=True), nullable=False, server_default=_now),
    Column("expires_at", DateTime(timezone=True), nullable=False),
    Column("ended_at", DateTime(timezone=True)),
    Column("state", _State(AttemptState), nullable=False, server_default=AttemptState.RUNNING.value),
    CheckConstraint(
        _is_one_of("state", [each for each in AttemptState if each is not AttemptState.WAITING]),
        name="attempt_state",
    ),
    CheckConstraint(f"(ended_at IS NULL) = (state = '{AttemptState.RUNNING}')", name="attempt_ended"),
    CheckConstraint("NOT helps OR (fold IS NOT NULL AND optuna_trial_id IS NULL)", name="attempt_helps"),
)

# However a claim and a recovery interleave, the database itself lets no trial have two live attempts, no fold
# two live helpers and no Optuna trial two leases.
Index(
    "one_live_attempt",
    attempts.c.trial_id,
    unique=True,
    postgresql_where=attempts.c.ended_at.is_(None) & ~attempts.c.helps,
)
Index(
    "one_live_helper",
    attempts.c.trial_id,
    attempts.c.fold,
    unique=True,
    postgresql_where=attempts.c.ended_at.is_(None) & attempts.c.helps,
)
Index("one_attempt_per_optuna_trial", attempts.c.optuna_trial_id, unique=True)
Index("attempts_of_worker", attempts.c.study_id, attempts.c.worker_id)
Index("attempts_at_trial", attempts.c.trial_id)
Index("live_attempts", attempts.c.study_id, postgresql_where=attempts.c.ended_at.is_(None))

attempt_records = Table(
    "attempt_records",
    metadata,
    Column("study_id", Integer, ForeignKey(studies.c.study_id, ondelete="CASCADE"), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("config", JSONB),
    Column("folds", JSONB),
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
    Column("closed_at", DateTime(timezone=True)),
)

rungs = Table(
    "rungs",
    metadata,
    Column("trial_id", BigInteger, ForeignKey(trials.c.trial_id, ondelete="CASCADE"), primary_key=True),
    Column("step", Integer, primary_key=True, autoincrement=False),
    Column("estimate", Double, nullable=False),
    Column("study_id", Integer, nullable=False),
)
Index("ranking_at_rung", rungs.c.study_id, rungs.c.step, rungs.c.estimate, rungs.c.trial_id)

duties = Table(
    "duties",
    metadata,
    Column("study_id", Integer, ForeignKey(studies.c.study_id, ondelete="CASCADE"), primary_key=True),
    Column("duty", Text, primary_key=True),
    Column("holder", Text),
    Column("until", DateTime(timezone=True)),
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

data_sets = Table(
    "data_sets",
    metadata,
    Column(
        "study_id",
        Integer,
        ForeignKey(studies.c.study_id, ondelete="CASCADE"),
        primary_key=True,
        autoincrement=False,
    ),
    Column("digest", Text, nullable=False),
    Column("folds", Text),
    Column("eegs", Integer),
    Column("rows", Integer),
    Column("patients", Integer),
    Column("written_at", DateTime(timezone=True), nullable=False, server_default=_now),
)

confirmations = Table(
    "confirmations",
    metadata,
    Column(
        "study_id",
        Integer,
        ForeignKey(studies.c.study_id, ondelete="CASCADE"),
        primary_key=True,
        autoincrement=False,
    ),
    Column("confirms", Text, nullable=False, unique=True),
    Column("candidates", JSONB, nullable=False),
    Column("ranking", JSONB(none_as_null=True)),
)


def now() -> ColumnElement[object]:
    """The database's clock at this statement (``now()`` would be that of the transaction's begin)."""
    return func.clock_timestamp()


def seconds_from_now(seconds: float) -> ColumnElement[object]:
    """A time by the database's clock."""
    return func.clock_timestamp() + func.make_interval(0, 0, 0, 0, 0, 0, seconds)
