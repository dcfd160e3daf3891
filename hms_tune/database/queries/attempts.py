"""Attempts at trials: who had each, when, how it left; and the trials that wait for one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, func, select

from hms_tune.database.tables import attempts, now, trials
from hms_tune.trial_state import AttemptState, TrialState


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptRow:
    """One attempt at a trial: who had it, when, and how it ended. ``seconds`` runs on while it is running."""

    attempt: int
    host: str
    slot: str
    worker_id: str
    started_at: datetime
    ended_at: datetime | None
    seconds: float
    state: AttemptState


def attempts_by_trial(
    connection: Connection, study_id: int, *, trial: int | None = None
) -> dict[int, tuple[AttemptRow, ...]]:
    """The attempts at each trial, by the trial's number.

    Parameters
    ----------
    trial : the number of the only trial to read; None: of all
    """
    seconds = func.extract("epoch", func.coalesce(attempts.c.ended_at, now()) - attempts.c.claimed_at)
    statement = (
        select(attempts, trials.c.number.label("trial"), seconds.label("seconds"))
        .join_from(attempts, trials, attempts.c.trial_id == trials.c.trial_id)
        .where(attempts.c.study_id == study_id, attempts.c.number.is_not(None))
        .order_by(attempts.c.lease_id)
    )
    if trial is not None:
        statement = statement.where(trials.c.number == trial)
    found: dict[int, list[AttemptRow]] = defaultdict(list)
    for row in connection.execute(statement):
        found[row.trial].append(
            AttemptRow(
                attempt=row.number,
                host=row.host,
                slot=row.slot,
                worker_id=row.worker_id,
                started_at=row.claimed_at,
                ended_at=row.ended_at,
                seconds=float(row.seconds),
                state=row.state,
            )
        )
    return {number: tuple(each) for number, each in found.items()}


def last_attempts_of_trials_ended_for(
    connection: Connection, study_id: int, reason: str, *, trial: int | None = None
) -> frozenset[int]:
    """Optuna's ids of the last attempts of the trials that ended for this reason.

    Parameters
    ----------
    trial : the number of the only trial to look at; None: all
    """
    statement = select(trials.c.last_optuna_trial_id).where(
        trials.c.study_id == study_id, trials.c.reason == reason
    )
    if trial is not None:
        statement = statement.where(trials.c.number == trial)
    return frozenset(connection.execute(statement).scalars())


def reasons_of_last_attempts(
    connection: Connection, optuna_trial_ids: Collection[int], *, among: Collection[str]
) -> dict[int, str]:
    """Of these attempts that are their trials' last: for what the trial ended, if for one of some reasons."""
    statement = select(trials.c.last_optuna_trial_id, trials.c.reason).where(
        trials.c.trial_id.in_(
            select(attempts.c.trial_id).where(attempts.c.optuna_trial_id.in_(optuna_trial_ids))
        ),
        trials.c.reason.in_(among),
    )
    return {row.last_optuna_trial_id: row.reason for row in connection.execute(statement)}


def enqueued_values(connection: Connection, study_id: int) -> tuple[dict[str, Any], ...]:
    """The values that people enqueued and that no slot has taken yet, the oldest first."""
    rows = connection.execute(
        select(trials.c.given)
        .where(
            trials.c.study_id == study_id,
            trials.c.state == TrialState.WAITING,
            trials.c.given.is_not(None),
            trials.c.last_optuna_trial_id.is_(None),
        )
        .order_by(trials.c.trial_id)
    )
    return tuple(dict(given) for given in rows.scalars())
