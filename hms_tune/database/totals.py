"""Totals of a study, added up by the database: none of this loads the trials."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from optuna.storages._rdb import models
from optuna.trial import TrialState
from sqlalchemy import Connection, Select, func, select

from hms_tune.database.tables import leases, lineages, now, worker_minutes

TRIALS: Any = models.TrialModel.__table__
VALUES: Any = models.TrialValueModel.__table__
REPORTS: Any = models.TrialIntermediateValueModel.__table__

ENDED = ("complete", "pruned", "failed")
"""Outcomes of trials that count as ended; an infeasible draw is drawn again."""

UNENDED = ("claimed", "waiting")
"""States of trials that have no outcome yet."""


@dataclass(frozen=True, slots=True)
class Leader:
    """The complete trial with the smallest value, by the number of its attempt."""

    number: int
    value: float


@dataclass(frozen=True, slots=True)
class RecentWork:
    """What a study did lately, and holds now. ``images`` is None if no worker counted any."""

    trials_ended: int
    images: int | None
    running: int
    gpus: float


def attempts_by_state(connection: Connection, study_id: int) -> dict[TrialState, int]:
    """How many of Optuna's trials are in each state."""
    rows = connection.execute(
        select(TRIALS.c.state, func.count().label("number"))
        .where(TRIALS.c.study_id == study_id)
        .group_by(TRIALS.c.state)
    )
    return {row.state: row.number for row in rows}


def trials_by_outcome(connection: Connection, study_id: int) -> dict[str, int]:
    """How many trials ended in each way, and how many are claimed or wait."""
    kind = func.coalesce(lineages.c.outcome, lineages.c.state).label("kind")
    rows = connection.execute(
        select(kind, func.count().label("number")).where(lineages.c.study_id == study_id).group_by("kind")
    )
    return {row.kind: row.number for row in rows}


def failure_reasons(connection: Connection, study_id: int, *, most: int = 5) -> dict[str, int]:
    """The commonest reasons for which trials failed, and how many did for each."""
    rows = connection.execute(
        select(func.coalesce(lineages.c.reason, "unknown").label("reason"), func.count().label("number"))
        .where(lineages.c.study_id == study_id, lineages.c.outcome == "failed")
        .group_by("reason")
        .order_by(func.count().desc(), "reason")
        .limit(most)
    )
    return {row.reason: row.number for row in rows}


def last_steps_of_pruned(connection: Connection, study_id: int) -> dict[int, int]:
    """How many attempts were pruned at each step."""
    last = (
        select(func.max(REPORTS.c.step).label("step"))
        .join_from(TRIALS, REPORTS, TRIALS.c.trial_id == REPORTS.c.trial_id)
        .where(TRIALS.c.study_id == study_id, TRIALS.c.state == TrialState.PRUNED)
        .group_by(TRIALS.c.trial_id)
        .subquery()
    )
    rows = connection.execute(select(last.c.step, func.count().label("number")).group_by(last.c.step))
    return {row.step: row.number for row in rows}


def attempts_that_moved(connection: Connection, study_id: int) -> dict[str, int]:
    """How many attempts were requeued or lost, and went on elsewhere."""
    rows = connection.execute(
        select(leases.c.outcome, func.count().label("number"))
        .where(leases.c.study_id == study_id, leases.c.outcome.in_(["handed_back", "lost"]))
        .group_by(leases.c.outcome)
    )
    return {row.outcome: row.number for row in rows}


def best_attempt_ids(connection: Connection, study_id: int, *, most: int = 5) -> list[int]:
    """Optuna's ids of the complete trials with the smallest values, best first; of equals the first."""
    return [row.trial_id for row in connection.execute(_best(study_id, most))]


def leader(connection: Connection, study_id: int) -> Leader | None:
    """The best complete trial; None if none is complete."""
    row = connection.execute(_best(study_id, 1)).one_or_none()
    return None if row is None else Leader(int(row.number), float(row.value))


def recent_work(connection: Connection, study_id: int, *, recent_s: float) -> RecentWork:
    """What a study did in the last ``recent_s`` seconds, and what runs now."""
    since = now() - func.make_interval(0, 0, 0, 0, 0, 0, recent_s)
    ended = select(func.count()).where(
        lineages.c.study_id == study_id, lineages.c.outcome.in_(ENDED), lineages.c.ended_at > since
    )
    images = select(func.sum(worker_minutes.c.images)).where(
        worker_minutes.c.study_id == study_id, worker_minutes.c.minute > since
    )
    row = connection.execute(
        select(
            ended.scalar_subquery().label("trials_ended"),
            images.scalar_subquery().label("images"),
            func.count().label("running"),
            func.coalesce(func.sum(leases.c.gpus), 0.0).label("gpus"),
        ).where(leases.c.study_id == study_id, leases.c.ended_at.is_(None))
    ).one()
    return RecentWork(
        trials_ended=row.trials_ended,
        images=None if row.images is None else int(row.images),
        running=row.running,
        gpus=float(row.gpus),
    )


def _best(study_id: int, most: int) -> Select[Any]:
    return (
        select(TRIALS.c.trial_id, TRIALS.c.number, VALUES.c.value)
        .join_from(TRIALS, VALUES, TRIALS.c.trial_id == VALUES.c.trial_id)
        .where(
            TRIALS.c.study_id == study_id,
            TRIALS.c.state == TrialState.COMPLETE,
            VALUES.c.objective == 0,
            VALUES.c.value.is_not(None),
        )
        .order_by(VALUES.c.value, TRIALS.c.number)
        .limit(most)
    )
