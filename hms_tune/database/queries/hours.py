"""How long a study has been at work: the time in which at least one slot was at an attempt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, ScalarSelect, func, select, text

from hms_tune.database.tables import SCHEMA, attempts, now


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


@dataclass(frozen=True, slots=True)
class SlotsAtWork:
    """How many slots were at work, on average in each stretch of ``stretch_s`` from ``began_at`` on."""

    began_at: datetime
    stretch_s: float
    busy: Sequence[float]


_BUSY = text(f"""
    WITH spans AS MATERIALIZED (
        SELECT min(claimed_at) OVER () AS began_at,
               extract(epoch FROM claimed_at - min(claimed_at) OVER ())::float8 AS began,
               extract(epoch FROM coalesce(ended_at, clock_timestamp()) - min(claimed_at) OVER ())::float8
                   AS ended
        FROM {SCHEMA}.attempts WHERE study_id = :study AND number IS NOT NULL
    ), whole AS (SELECT greatest(max(ended), 1) / :stretches AS width FROM spans)
    SELECT began_at, width, place,
           sum(greatest(0, least(ended, (place + 1) * width) - greatest(began, place * width))) / width
               AS busy
    FROM spans, whole,
         generate_series(floor(began / width)::int, least(floor(ended / width)::int, :stretches - 1)) place
    GROUP BY began_at, width, place
""")


def slots_at_work(connection: Connection, study_id: int, *, stretches: int) -> SlotsAtWork | None:
    """How many slots were at work in each of so many stretches of a study's time; None before the first."""
    rows = connection.execute(_BUSY, {"study": study_id, "stretches": stretches}).all()
    if not rows:
        return None
    busy = {row.place: row.busy for row in rows}
    return SlotsAtWork(rows[0].began_at, rows[0].width, [busy.get(each, 0.0) for each in range(stretches)])
