"""Which worker tells people what: one row for each happening of a study, over the whole fleet.

Every worker that has somewhere to send to looks for happenings, and writes what it finds. The row's key (the
happening and what it is about) lets a second one do nothing, and of many workers the one that takes the row
sends it. A worker that dies between taking and sending leaves the row to another, after a while.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, or_, select, update
from sqlalchemy.dialects.postgresql import insert

from hms_tune.config.study_sections import Happening
from hms_tune.database.connect import Storage
from hms_tune.database.tables import notices, now, seconds_from_now

RETAKEN_S = 300.0
"""A notice that was taken so long ago, and neither sent nor given up, is taken by another."""


@dataclass(frozen=True, slots=True)
class Notice:
    """A happening. ``subject`` tells it from others of its kind: a trial's number, a worker's id."""

    happening: Happening
    subject: str
    message: dict[str, Any]


def write(connection: Connection, study_id: int, notice: Notice) -> bool:
    """Write a happening down; returns whether it is new."""
    row = insert(notices).values(
        study_id=study_id, happening=notice.happening, subject=notice.subject, message=notice.message
    )
    return connection.execute(row.on_conflict_do_nothing()).rowcount == 1


def take(storage: Storage, study_id: int, worker_id: str) -> Notice | None:
    """The oldest notice that nobody has taken, now this worker's; None if there is none."""
    waiting = (
        select(notices.c.happening, notices.c.subject)
        .where(
            notices.c.study_id == study_id,
            notices.c.sent_at.is_(None),
            notices.c.failure.is_(None),
            or_(notices.c.taken_at.is_(None), notices.c.taken_at < seconds_from_now(-RETAKEN_S)),
        )
        .order_by(notices.c.created_at)
        .limit(1)
        .with_for_update(skip_locked=True)
    )
    with storage.transaction() as connection:
        key = connection.execute(waiting).one_or_none()
        if key is None:
            return None
        message = connection.execute(
            update(notices)
            .where(_is(study_id, key.happening, key.subject))
            .values(taken_by=worker_id, taken_at=now())
            .returning(notices.c.message)
        ).scalar_one()
    return Notice(key.happening, key.subject, dict(message))


def settle(storage: Storage, study_id: int, notice: Notice, *, failure: str | None = None) -> None:
    """Write that a taken notice was sent, or why it was given up."""
    values: dict[str, Any] = {"sent_at": now()} if failure is None else {"failure": failure}
    with storage.transaction() as connection:
        connection.execute(
            update(notices).where(_is(study_id, notice.happening, notice.subject)).values(**values)
        )


def last_message(connection: Connection, study_id: int, happening: Happening) -> dict[str, Any] | None:
    """The newest message of a kind."""
    newest = (
        select(notices.c.message)
        .where(notices.c.study_id == study_id, notices.c.happening == happening)
        .order_by(notices.c.created_at.desc())
        .limit(1)
    )
    message = connection.execute(newest).scalar_one_or_none()
    return None if message is None else dict(message)


def _is(study_id: int, happening: str, subject: str) -> Any:
    return (
        (notices.c.study_id == study_id) & (notices.c.happening == happening) & (notices.c.subject == subject)
    )
