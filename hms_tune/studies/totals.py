"""Figures of a study, added up by the database: none of this loads the trials."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from optuna.storages._rdb import models
from optuna.study import StudyDirection
from optuna.trial import TrialState
from sqlalchemy import Connection, Row, exists, func, or_, select

from hms_tune.database.connect import Storage
from hms_tune.database.queue.claim import gpu_hours_used
from hms_tune.database.tables import leases, lineages, now, studies, worker_minutes, workers
from hms_tune.search.study import STUDY_FILE

TRIALS: Any = models.TrialModel.__table__
VALUES: Any = models.TrialValueModel.__table__
STUDIES: Any = models.StudyModel.__table__
ATTRIBUTES: Any = models.StudyUserAttributeModel.__table__
DIRECTIONS: Any = models.StudyDirectionModel.__table__
REPORTS: Any = models.TrialIntermediateValueModel.__table__

RECENT_S = 3600.0
"""Speeds are those of this much time, or of the study's age if it is younger."""

ENDED = ("complete", "pruned", "failed")


@dataclass(frozen=True, slots=True)
class Budget:
    """What people allow a study, and how old it is. Times are in seconds unless they say otherwise."""

    state: str
    trials: int | None
    hours: float | None
    gpu_hours: float | None
    started_at: datetime | None
    asked_at: datetime
    age_s: float | None


@dataclass(frozen=True, slots=True)
class Speed:
    """How fast a study goes on: trials that end in an hour, images trained in a second, GPUs in use."""

    trials_per_hour: float | None
    images_per_second: float | None
    gpus: float


def budget_of(connection: Connection, study_id: int) -> Budget | None:
    """The study's budget; None if no worker ever joined it."""
    row = connection.execute(
        select(
            studies,
            now().label("asked_at"),
            func.extract("epoch", now() - studies.c.started_at).label("age_s"),
        ).where(studies.c.study_id == study_id)
    ).one_or_none()
    if row is None:
        return None
    return Budget(
        state=row.state,
        trials=row.budget_trials,
        hours=row.budget_hours,
        gpu_hours=row.budget_gpu_hours,
        started_at=row.started_at,
        asked_at=row.asked_at,
        age_s=None if row.age_s is None else float(row.age_s),
    )


def is_ours(connection: Connection, study_id: int) -> bool:
    """Whether hms-tune made a study: a worker has joined it, or has made it and not joined yet."""
    joined = exists().where(studies.c.study_id == study_id)
    made = exists().where(ATTRIBUTES.c.study_id == study_id, ATTRIBUTES.c.key == STUDY_FILE)
    return bool(connection.execute(select(or_(joined, made))).scalar_one())


def attempts_by_state(connection: Connection, study_id: int) -> dict[TrialState, int]:
    """How many of Optuna's trials are in each state."""
    rows = connection.execute(
        select(TRIALS.c.state, func.count().label("number"))
        .where(TRIALS.c.study_id == study_id)
        .group_by(TRIALS.c.state)
    )
    return {row.state: row.number for row in rows}


def trials_by_kind(connection: Connection, study_id: int) -> dict[str, int]:
    """How many trials ended in each way, and how many are claimed or wait."""
    kind = func.coalesce(lineages.c.outcome, lineages.c.state).label("kind")
    rows = connection.execute(
        select(kind, func.count().label("number")).where(lineages.c.study_id == study_id).group_by("kind")
    )
    return {row.kind: row.number for row in rows}


def failures(connection: Connection, study_id: int, *, most: int = 5) -> dict[str, int]:
    """The commonest reasons for which trials failed."""
    rows = connection.execute(
        select(func.coalesce(lineages.c.reason, "unknown").label("reason"), func.count().label("number"))
        .where(lineages.c.study_id == study_id, lineages.c.outcome == "failed")
        .group_by("reason")
        .order_by(func.count().desc(), "reason")
        .limit(most)
    )
    return {row.reason: row.number for row in rows}


def last_steps_of_pruned(connection: Connection, study_id: int) -> dict[int, int]:
    """How many trials were pruned at each step."""
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
    """How many attempts were handed back or lost, and went on elsewhere."""
    rows = connection.execute(
        select(leases.c.outcome, func.count().label("number"))
        .where(leases.c.study_id == study_id, leases.c.outcome.in_(["handed_back", "lost"]))
        .group_by(leases.c.outcome)
    )
    return {row.outcome: row.number for row in rows}


def best_ids(connection: Connection, study_id: int, *, most: int = 5) -> list[int]:
    """Optuna's ids of the best complete trials, best first; none where a study has several objectives."""
    return [row.trial_id for row in _best(connection, study_id, most)]


def best_value(connection: Connection, study_id: int) -> tuple[int, float] | None:
    """Number and value of the best complete trial; None also where a study has several objectives."""
    best = _best(connection, study_id, 1)
    return (int(best[0].number), float(best[0].value)) if best else None


def _best(connection: Connection, study_id: int, most: int) -> Sequence[Row[Any]]:
    directions = (
        connection.execute(select(DIRECTIONS.c.direction).where(DIRECTIONS.c.study_id == study_id))
        .scalars()
        .all()
    )
    if len(directions) != 1:
        return ()
    value = VALUES.c.value.desc() if directions[0] == StudyDirection.MAXIMIZE else VALUES.c.value
    statement = (
        select(TRIALS.c.trial_id, TRIALS.c.number, VALUES.c.value)
        .join_from(TRIALS, VALUES, TRIALS.c.trial_id == VALUES.c.trial_id)
        .where(
            TRIALS.c.study_id == study_id,
            TRIALS.c.state == TrialState.COMPLETE,
            VALUES.c.objective == 0,
            VALUES.c.value.is_not(None),
        )
        .order_by(value, TRIALS.c.number)
        .limit(most)
    )
    return connection.execute(statement).all()


def last_reports(connection: Connection, trial_ids: Sequence[int]) -> dict[int, tuple[int, float]]:
    """The last step that each of these trials reported, and the value there."""
    last = (
        select(REPORTS.c.trial_id, func.max(REPORTS.c.step).label("step"))
        .where(REPORTS.c.trial_id.in_(trial_ids), REPORTS.c.intermediate_value.is_not(None))
        .group_by(REPORTS.c.trial_id)
        .subquery()
    )
    rows = connection.execute(
        select(REPORTS.c.trial_id, REPORTS.c.step, REPORTS.c.intermediate_value).join(
            last, (last.c.trial_id == REPORTS.c.trial_id) & (last.c.step == REPORTS.c.step)
        )
    )
    return {row.trial_id: (row.step, float(row.intermediate_value)) for row in rows}


def speed_of(connection: Connection, study_id: int, *, age_s: float | None, ended: int) -> Speed:
    """How fast the study goes on.

    Parameters
    ----------
    age_s : since its first trial began, s; None before
    ended : how many of its trials have ended; their mean speed is told of a study that stood still lately
    """
    gpus = connection.execute(
        select(func.coalesce(func.sum(leases.c.gpus), 0.0)).where(
            leases.c.study_id == study_id, leases.c.ended_at.is_(None)
        )
    ).scalar_one()
    if not age_s:
        return Speed(None, None, float(gpus))
    span = min(RECENT_S, age_s)
    since = now() - func.make_interval(0, 0, 0, 0, 0, 0, RECENT_S)
    lately = connection.execute(
        select(func.count())
        .select_from(lineages)
        .where(lineages.c.study_id == study_id, lineages.c.outcome.in_(ENDED), lineages.c.ended_at > since)
    ).scalar_one()
    images = connection.execute(
        select(func.sum(worker_minutes.c.images)).where(
            worker_minutes.c.study_id == study_id, worker_minutes.c.minute > since
        )
    ).scalar_one()
    per_hour = 3600.0 * lately / span if lately else 3600.0 * ended / age_s if ended else None
    return Speed(per_hour, None if images is None else float(images) / span, float(gpus))


def seconds_left(budget: Budget, speed: Speed, *, ended: int, gpu_hours: float) -> float | None:
    """When the first part of the budget is spent at this speed, s from now; None if nobody can tell."""
    left = []
    if budget.trials is not None and speed.trials_per_hour:
        left.append(3600.0 * max(0, budget.trials - ended) / speed.trials_per_hour)
    if budget.hours is not None and budget.age_s is not None:
        left.append(max(0.0, 3600.0 * budget.hours - budget.age_s))
    if budget.gpu_hours is not None and speed.gpus > 0:
        left.append(3600.0 * max(0.0, budget.gpu_hours - gpu_hours) / speed.gpus)
    return min(left, default=None)


def shares_used(connection: Connection, study_id: int, budget: Budget) -> dict[str, float]:
    """Which share of each limited part of the budget is used, 0 to 1 and beyond."""
    kinds = trials_by_kind(connection, study_id)
    used = {}
    if budget.trials:
        used["trials"] = sum(kinds.get(outcome, 0) for outcome in ENDED) / budget.trials
    if budget.hours and budget.age_s is not None:
        used["hours"] = budget.age_s / 3600.0 / budget.hours
    if budget.gpu_hours:
        used["gpu_hours"] = gpu_hours_used(connection, study_id) / budget.gpu_hours
    return used


def silent_workers(
    connection: Connection, study_id: int, *, silent_s: float, forgotten_s: float
) -> list[Any]:
    """Workers that did not say that they stop and were last seen so long ago, but not longer than that."""
    ago = func.extract("epoch", now() - workers.c.last_seen)
    rows = connection.execute(
        select(workers, ago.label("ago_s")).where(
            workers.c.study_id == study_id,
            workers.c.stopped_at.is_(None),
            ago > silent_s,
            ago < forgotten_s,
        )
    )
    return list(rows)


def best_of_study(storage: Storage, study: str) -> Callable[[], float | None]:
    """What asks the database for the study's best KL so far."""

    def ask() -> float | None:
        study_id = int(storage.optuna.get_study_id_from_name(study))
        with storage.engine.connect() as connection:
            best = best_value(connection, study_id)
        return None if best is None else best[1]

    return ask
