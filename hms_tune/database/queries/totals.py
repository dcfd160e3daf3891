"""Totals of a study, added up by the database: none of this loads the trials."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from optuna.study import StudyDirection
from optuna.trial import TrialState as OptunaState
from sqlalchemy import Connection, Row, and_, func, or_, select

from hms_tune.database.optuna_trial import state_by_both
from hms_tune.database.queries.hours import seconds_at_work
from hms_tune.database.tables import attempts, now, trials, worker_minutes
from hms_tune.search.optuna_private import models
from hms_tune.trial_state import ENDED, AttemptState, TrialState

_ATTEMPTS: Any = models.TrialModel.__table__
_VALUES: Any = models.TrialValueModel.__table__
_DIRECTIONS: Any = models.StudyDirectionModel.__table__
_REPORTS: Any = models.TrialIntermediateValueModel.__table__


@dataclass(frozen=True, slots=True)
class Leader:
    """The best complete trial in the study's own direction. ``trial`` and ``attempt`` are numbers."""

    trial: int
    attempt: int
    value: float


@dataclass(frozen=True, slots=True)
class RecentWork:
    """What a study did lately, and holds now. ``seconds`` is how long it was at work lately.

    ``images`` is None if no worker counted any.
    """

    seconds: float
    trials_ended: int
    images: int | None
    running: int
    gpus: float


def attempts_by_state(connection: Connection, study_id: int) -> dict[AttemptState, int]:
    """How many attempts are in each state; every state is there.

    They are counted in Optuna's tables, which also have what scripts added, and told apart by ours.
    """
    rows = connection.execute(
        select(_ATTEMPTS.c.state, attempts.c.state.label("ours"), func.count())
        .join_from(_ATTEMPTS, attempts, _ATTEMPTS.c.trial_id == attempts.c.optuna_trial_id, isouter=True)
        .where(_ATTEMPTS.c.study_id == study_id)
        .group_by(_ATTEMPTS.c.state, attempts.c.state)
    )
    counted = dict.fromkeys(AttemptState, 0)
    for optunas, ours, number in rows:
        counted[state_by_both(optunas, ours)] += number
    return counted


def trials_by_state(connection: Connection, study_id: int) -> dict[TrialState, int]:
    """How many trials are in each state; every state is there."""
    rows = connection.execute(
        select(trials.c.state, func.count().label("number"))
        .where(trials.c.study_id == study_id)
        .group_by(trials.c.state)
    )
    return dict.fromkeys(TrialState, 0) | {row.state: row.number for row in rows}


def scripts_trials_by_state(connection: Connection, study_id: int) -> dict[TrialState, int]:
    """How many Optuna trials that scripts added have ended in each state: each is a trial of its own."""
    rows = connection.execute(
        select(_ATTEMPTS.c.state, func.count())
        .join_from(_ATTEMPTS, attempts, _ATTEMPTS.c.trial_id == attempts.c.optuna_trial_id, isouter=True)
        .where(
            _ATTEMPTS.c.study_id == study_id,
            attempts.c.lease_id.is_(None),
            _ATTEMPTS.c.state.not_in([OptunaState.RUNNING, OptunaState.WAITING]),
        )
        .group_by(_ATTEMPTS.c.state)
    )
    return {state_by_both(state, None).trial_state_after: number for state, number in rows}


def failure_reasons(connection: Connection, study_id: int, *, most: int = 5) -> dict[str, int]:
    """The commonest reasons for which trials failed, and how many did for each."""
    rows = connection.execute(
        select(func.coalesce(trials.c.reason, "unknown").label("reason"), func.count().label("number"))
        .where(trials.c.study_id == study_id, trials.c.state == TrialState.FAILED)
        .group_by("reason")
        .order_by(func.count().desc(), "reason")
        .limit(most)
    )
    return {row.reason: row.number for row in rows}


def last_steps_of_pruned(connection: Connection, study_id: int) -> dict[int, int]:
    """How many trials were pruned after each step."""
    last = (
        select(func.max(_REPORTS.c.step).label("step"))
        .join_from(trials, _REPORTS, trials.c.last_optuna_trial_id == _REPORTS.c.trial_id)
        .where(trials.c.study_id == study_id, trials.c.state == TrialState.PRUNED)
        .group_by(trials.c.trial_id)
        .subquery()
    )
    rows = connection.execute(select(last.c.step, func.count().label("number")).group_by(last.c.step))
    return {row.step: row.number for row in rows}


def best_attempt_ids(connection: Connection, study_id: int, *, most: int = 5) -> list[int]:
    """Optuna's ids of the best complete trials, best first; none if a study has several objectives."""
    return [row.trial_id for row in _best(connection, study_id, most)]


def best_trial_numbers(connection: Connection, study_id: int, *, most: int) -> list[int]:
    """Numbers of the best complete trials, best first; none if a study has several objectives."""
    return [row.trial for row in _best(connection, study_id, most)]


def leader(connection: Connection, study_id: int) -> Leader | None:
    """The best complete trial; None if none is complete, or if a study has several objectives."""
    best = _best(connection, study_id, 1)
    return Leader(int(best[0].trial), int(best[0].number), float(best[0].value)) if best else None


def best_complete_attempt(connection: Connection, study_id: int) -> int | None:
    """Number of the attempt that completed the fleet's best trial; what scripts added is left out."""
    best = (
        select(trials.c.last_optuna_trial_id)
        .where(trials.c.study_id == study_id, trials.c.state == TrialState.COMPLETE)
        .order_by(trials.c.estimate, trials.c.trial_id)
        .limit(1)
        .scalar_subquery()
    )
    number = select(attempts.c.number).where(attempts.c.optuna_trial_id == best)
    return connection.execute(number).scalar_one_or_none()


def complete_and_better(
    connection: Connection, study_id: int, value: float | None, attempt: int
) -> tuple[int, int]:
    """How many attempts of a study are complete, and how many of them are better than one."""
    value = math.inf if value is None else value  # every complete one is better than one that is not
    better = or_(_VALUES.c.value < value, and_(_VALUES.c.value == value, _ATTEMPTS.c.number < attempt))
    row = connection.execute(
        select(func.count(), func.count().filter(better))
        .join_from(_ATTEMPTS, _VALUES, _ATTEMPTS.c.trial_id == _VALUES.c.trial_id)
        .where(_ATTEMPTS.c.study_id == study_id, _ATTEMPTS.c.state == OptunaState.COMPLETE)
    ).one()
    return int(row[0]), int(row[1])


MOST_COMPARED = 500
"""With so many of the trials before it a trial is compared, the newest of them."""


def earlier_estimates(
    connection: Connection, study_id: int, trial: int, step: int
) -> tuple[int, float] | None:
    """How many of the complete trials before a trial reported at a step, and their median there."""
    before = (
        select(trials.c.last_optuna_trial_id.label("trial_id"))
        .where(trials.c.study_id == study_id, trials.c.state == TrialState.COMPLETE, trials.c.number < trial)
        .order_by(trials.c.number.desc())
        .limit(MOST_COMPARED)
        .subquery()
    )
    value = _REPORTS.c.intermediate_value
    count, median = connection.execute(
        select(func.count(value), func.percentile_cont(0.5).within_group(value))
        .join_from(before, _REPORTS, before.c.trial_id == _REPORTS.c.trial_id)
        .where(_REPORTS.c.step == step)
    ).one()
    return (count, float(median)) if count else None


def best_estimate(connection: Connection, study_id: int) -> float | None:
    """The score of the fleet's best complete trial; None: there is none."""
    complete = (trials.c.study_id == study_id, trials.c.state == TrialState.COMPLETE)
    best: float | None = connection.execute(select(func.min(trials.c.estimate)).where(*complete)).scalar_one()
    return best


def complete_curves(
    connection: Connection, study_id: int, *, most: int = 20
) -> list[tuple[dict[int, float], float]]:
    """What the latest complete trials reported by step, and the score that each ended at."""
    latest = (
        select(_ATTEMPTS.c.trial_id, _VALUES.c.value)
        .join_from(_ATTEMPTS, _VALUES, _ATTEMPTS.c.trial_id == _VALUES.c.trial_id)
        .where(_ATTEMPTS.c.study_id == study_id, _ATTEMPTS.c.state == OptunaState.COMPLETE)
        .where(_VALUES.c.objective == 0, _VALUES.c.value.is_not(None))
        .order_by(_ATTEMPTS.c.number.desc())
        .limit(most)
        .subquery()
    )
    rows = connection.execute(
        select(latest.c.trial_id, latest.c.value, _REPORTS.c.step, _REPORTS.c.intermediate_value)
        .join_from(latest, _REPORTS, latest.c.trial_id == _REPORTS.c.trial_id)
        .where(_REPORTS.c.intermediate_value.is_not(None))
    )
    found: dict[int, tuple[dict[int, float], float]] = {}
    for row in rows:
        found.setdefault(row.trial_id, ({}, float(row.value)))[0][row.step] = float(row.intermediate_value)
    return list(found.values())


def recent_work(connection: Connection, study_id: int, *, recent_s: float) -> RecentWork:
    """What a study did in the last ``recent_s`` seconds, and what runs now."""
    since = now() - func.make_interval(0, 0, 0, 0, 0, 0, recent_s)
    ended = select(func.count()).where(
        trials.c.study_id == study_id, trials.c.state.in_(ENDED), trials.c.ended_at > since
    )
    images = select(func.sum(worker_minutes.c.images)).where(
        worker_minutes.c.study_id == study_id, worker_minutes.c.minute > since
    )
    row = connection.execute(
        select(
            ended.scalar_subquery().label("trials_ended"),
            images.scalar_subquery().label("images"),
            func.count().label("running"),
            func.coalesce(func.sum(attempts.c.gpus), 0.0).label("gpus"),
        ).where(attempts.c.study_id == study_id, attempts.c.ended_at.is_(None))
    ).one()
    return RecentWork(
        seconds=seconds_at_work(connection, study_id, lately_s=recent_s),
        trials_ended=row.trials_ended,
        images=None if row.images is None else int(row.images),
        running=row.running,
        gpus=float(row.gpus),
    )


def _best(connection: Connection, study_id: int, most: int) -> Sequence[Row[Any]]:
    """The best complete attempts; what a script added is a trial of its own."""
    directions = (
        connection.execute(select(_DIRECTIONS.c.direction).where(_DIRECTIONS.c.study_id == study_id))
        .scalars()
        .all()
    )
    if len(directions) != 1:
        return ()
    value = _VALUES.c.value.desc() if directions[0] == StudyDirection.MAXIMIZE else _VALUES.c.value
    statement = (
        select(
            _ATTEMPTS.c.trial_id,
            _ATTEMPTS.c.number,
            _VALUES.c.value,
            func.coalesce(trials.c.number, _ATTEMPTS.c.number).label("trial"),
        )
        .join_from(_ATTEMPTS, _VALUES, _ATTEMPTS.c.trial_id == _VALUES.c.trial_id)
        .outerjoin(attempts, attempts.c.optuna_trial_id == _ATTEMPTS.c.trial_id)
        .outerjoin(trials, trials.c.trial_id == attempts.c.trial_id)
        .where(
            _ATTEMPTS.c.study_id == study_id,
            _ATTEMPTS.c.state == OptunaState.COMPLETE,
            _VALUES.c.objective == 0,
            _VALUES.c.value.is_not(None),
        )
        .order_by(value, _ATTEMPTS.c.number)
        .limit(most)
    )
    return connection.execute(statement).all()
