"""Messages to people about a study: one row for each event, over the whole fleet.

Every worker that has somewhere to send to looks for events, and adds what it finds. The row's key (the event
and what it is about) lets a second worker add nothing, and the one worker that takes the row sends it. If a
worker dies between taking and sending, another takes the row after a while.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, or_, select, update
from sqlalchemy.dialects.postgresql import insert

from hms_tune.config.study_sections import Happening
from hms_tune.database.connect import Storage
from hms_tune.database.tables import now, outbox, seconds_from_now

RETAKEN_S = 300.0
"""A message that was taken so long ago, and neither sent nor given up, is taken by another worker."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A message about an event. ``subject`` is what the event is about: a trial's number, a worker's id."""

    event: Happening
    subject: str
    message: dict[str, Any]


def add_entry(connection: Connection, study_id: int, entry: Entry) -> bool:
    """Add a message; returns whether its event is new."""
    row = insert(outbox).values(
        study_id=study_id, event=entry.event, subject=entry.subject, message=entry.message
    )
    return connection.execute(row.on_conflict_do_nothing()).rowcount == 1


def take_entry(storage: Storage, study_id: int, worker_id: str) -> Entry | None:
    """The oldest message that no worker has taken, now this worker's; None if there is none."""
    waiting = (
        select(outbox.c.event, outbox.c.subject)
        .where(
            outbox.c.study_id == study_id,
            outbox.c.sent_at.is_(None),
            outbox.c.failure.is_(None),
            or_(outbox.c.taken_at.is_(None), outbox.c.taken_at < seconds_from_now(-RETAKEN_S)),
        )
        .order_by(outbox.c.created_at)
        .limit(1)
        .with_for_update(skip_locked=True)
    )
    with storage.transaction() as connection:
        key = connection.execute(waiting).one_or_none()
        if key is None:
            return None
        message = connection.execute(
            update(outbox)
            .where(_is(study_id, key.event, key.subject))
            .values(taken_by=worker_id, taken_at=now())
            .returning(outbox.c.message)
        ).scalar_one()
    return Entry(key.event, key.subject, dict(message))


def mark_sent(storage: Storage, study_id: int, entry: Entry) -> None:
    """Write that a taken message was sent."""
    _mark(storage, study_id, entry, {"sent_at": now()})


def mark_failed(storage: Storage, study_id: int, entry: Entry, failure: str) -> None:
    """Write why a taken message was given up."""
    _mark(storage, study_id, entry, {"failure": failure})


def last_message(connection: Connection, study_id: int, event: Happening) -> dict[str, Any] | None:
    """The newest message about events of a kind."""
    newest = (
        select(outbox.c.message)
        .where(outbox.c.study_id == study_id, outbox.c.event == event)
        .order_by(outbox.c.created_at.desc())
        .limit(1)
    )
    message = connection.execute(newest).scalar_one_or_none()
    return None if message is None else dict(message)


def _mark(storage: Storage, study_id: int, entry: Entry, values: dict[str, Any]) -> None:
    with storage.transaction() as connection:
        connection.execute(update(outbox).where(_is(study_id, entry.event, entry.subject)).values(**values))


def _is(study_id: int, event: str, subject: str) -> ColumnElement[bool]:
    return and_(outbox.c.study_id == study_id, outbox.c.event == event, outbox.c.subject == subject)
