"""What of a study's budget is used, as SQL that others put into their statements."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, ScalarSelect, func, select

from hms_tune.database.tables import attempts, now, trials
from hms_tune.trial_state import ENDED, AttemptState, TrialState


def gpu_hours_used(connection: Connection, study_id: int) -> float:
    """GPU-hours of all attempts of a study so far, by the database's clock.

    An attempt that was killed is counted up to its recovery, and at most to the expiry of its lease: a worker
    that is gone holds no GPU on the day when somebody finds it missing.
    """
    return float(connection.execute(select(gpu_hours(study_id))).scalar_one())


def gpu_hours(study_id: int) -> ScalarSelect[Any]:
    """GPU-hours of all attempts, see :func:`gpu_hours_used`."""
    until = func.least(func.coalesce(attempts.c.ended_at, now()), attempts.c.expires_at)
    seconds = func.greatest(func.extract("epoch", until - attempts.c.claimed_at), 0)
    return (
        select(func.coalesce(func.sum(attempts.c.gpus * seconds), 0) / 3600.0)
        .where(attempts.c.study_id == study_id, attempts.c.gpus > 0)
        .scalar_subquery()
    )


def trials_claimed(connection: Connection, study_id: int) -> int:
    """How many units of the budget are taken: by trials that ended, run, wait, or were enqueued."""
    return int(connection.execute(select(claimed(study_id))).scalar_one())


def claimed(study_id: int) -> ScalarSelect[Any]:
    """Units of the budget that are taken, see :func:`trials_claimed`."""
    counting = [each for each in TrialState if each.uses_budget]
    return (
        select(func.count())
        .select_from(trials)
        .where(trials.c.study_id == study_id, trials.c.state.in_(counting))
        .scalar_subquery()
    )


def taken_by(study_id: int, worker_id: str) -> ScalarSelect[Any]:
    """Trials of a study that a worker ran; those it requeued or lost do not count."""
    return (
        select(func.count(attempts.c.trial_id.distinct()))
        .where(
            attempts.c.study_id == study_id,
            attempts.c.worker_id == worker_id,
            ~attempts.c.helps,
            attempts.c.state.in_([AttemptState.RUNNING, AttemptState.PAUSED, *ENDED]),
        )
        .scalar_subquery()
    )
