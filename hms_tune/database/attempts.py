"""Attempts at trials: who had each, when, how it left; and the trials that wait for one."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, func, select

from hms_tune.database.tables import leases, lineages, now


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptRecord:
    """One attempt at a trial: who had it, when, and how it left. ``seconds`` runs on while it is running."""

    number: int
    host: str
    slot: str
    worker_id: str
    started_at: datetime
    ended_at: datetime | None
    seconds: float
    outcome: str | None


def attempts_by_trial(
    connection: Connection, study_id: int, *, first_number: int | None = None
) -> dict[int, tuple[AttemptRecord, ...]]:
    """The attempts of each trial, by the number of its first.

    Parameters
    ----------
    first_number : read the attempts of the trial that began with this one alone
    """
    seconds = func.extract("epoch", func.coalesce(leases.c.ended_at, now()) - leases.c.claimed_at)
    statement = (
        select(leases, lineages.c.first_number, seconds.label("seconds"))
        .join_from(leases, lineages, leases.c.lineage_id == lineages.c.lineage_id)
        .where(leases.c.study_id == study_id, leases.c.number.is_not(None))
        .order_by(leases.c.lease_id)
    )
    if first_number is not None:
        statement = statement.where(lineages.c.first_number == first_number)
    found: dict[int, list[AttemptRecord]] = defaultdict(list)
    for row in connection.execute(statement):
        found[row.first_number].append(
            AttemptRecord(
                number=row.number,
                host=row.host,
                slot=row.slot,
                worker_id=row.worker_id,
                started_at=row.claimed_at,
                ended_at=row.ended_at,
                seconds=float(row.seconds),
                outcome=row.outcome,
            )
        )
    return {number: tuple(each) for number, each in found.items()}


def last_attempts_of_trials_ended_for(connection: Connection, study_id: int, reason: str) -> frozenset[int]:
    """Optuna's ids of the last attempts of the trials that ended for this reason."""
    statement = select(lineages.c.last_trial_id).where(
        lineages.c.study_id == study_id, lineages.c.reason == reason
    )
    return frozenset(connection.execute(statement).scalars())


def enqueued_values(connection: Connection, study_id: int) -> tuple[dict[str, Any], ...]:
    """The values that people enqueued and that no slot has taken yet, the oldest first."""
    rows = connection.execute(
        select(lineages.c.given)
        .where(
            lineages.c.study_id == study_id,
            lineages.c.state == "waiting",
            lineages.c.given.is_not(None),
            lineages.c.last_trial_id.is_(None),
        )
        .order_by(lineages.c.lineage_id)
    )
    return tuple(dict(given) for given in rows.scalars())
