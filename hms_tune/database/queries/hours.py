"""How long a study has been at work: the time in which at least one slot was at an attempt."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, Connection, ScalarSelect, func, select

from hms_tune.database.tables import attempts, now


def seconds_at_work(connection: Connection, study_id: int, *, lately_s: float | None = None) -> float:
    """Seconds in which at least one attempt of a study ran, by the database's clock.

    Attempts that ran at the same time are counted once, and times in which none ran are not counted: a search
    that waits in a cluster's queue spends nothing. An attempt that was killed ran until its recovery, and at
    most until its lease expired.

    Parameters
    ----------
    lately_s : count only what lies in the last so many seconds; None: all
    """
    return float(connection.execute(select(at_work(study_id, lately_s=lately_s))).scalar_one())


def at_work(study_id: int, *, lately_s: float | None = None) -> ScalarSelect[Any]:
    """Seconds at work as part of another statement, see :func:`seconds_at_work`."""
    over = func.least(func.coalesce(attempts.c.ended_at, now()), attempts.c.expires_at)
    begun: ColumnElement[Any] = attempts.c.claimed_at
    if lately_s is not None:
        begun = func.greatest(begun, now() - func.make_interval(0, 0, 0, 0, 0, 0, lately_s))
    spans = select(begun.label("begun"), over.label("over")).where(attempts.c.study_id == study_id).subquery()
    # Each attempt adds what it lasted beyond the end of all that began before it.
    covered = func.max(spans.c.over).over(order_by=spans.c.begun, rows=(None, -1))
    added = select(
        func.extract("epoch", spans.c.over - func.greatest(spans.c.begun, covered)).label("seconds")
    ).subquery()
    return select(func.coalesce(func.sum(func.greatest(added.c.seconds, 0)), 0)).scalar_subquery()
