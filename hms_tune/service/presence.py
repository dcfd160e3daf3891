"""Who is at work: each worker's row, kept fresh while it lives."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from sqlalchemy import update
from sqlalchemy.exc import SQLAlchemyError

from hms_tune.service.machine import this_process
from hms_tune.service.storage import Storage
from hms_tune.service.tables import now, workers

_logger = logging.getLogger(__name__)

SEEN_EVERY_S = 10.0


@dataclass(frozen=True, slots=True)
class Presence:
    """A worker as others see it. ``devices`` has one entry per slot."""

    worker_id: str
    study_id: int
    version: str
    devices: tuple[str, ...]


@contextmanager
def announce(storage: Storage, presence: Presence) -> Iterator[None]:
    """Be listed among the study's workers for the duration of the block."""
    process = this_process()
    with storage.engine.begin() as connection:
        connection.execute(
            workers.insert().values(
                worker_id=presence.worker_id,
                study_id=presence.study_id,
                host=process.host,
                pid=process.pid,
                process_started=process.started,
                machine=process.machine,
                version=presence.version,
                devices=",".join(presence.devices),
                slots=len(presence.devices),
            )
        )
    closing = threading.Event()

    def stay() -> None:
        while not closing.wait(SEEN_EVERY_S):
            _touch(storage, presence.worker_id, stopped=False)

    thread = threading.Thread(target=stay, name="presence", daemon=True)
    thread.start()
    try:
        yield
    finally:
        closing.set()
        thread.join(timeout=10.0)
        _touch(storage, presence.worker_id, stopped=True)


def _touch(storage: Storage, worker_id: str, *, stopped: bool) -> None:
    values = {"last_seen": now()} | ({"stopped_at": now()} if stopped else {})
    try:
        with storage.engine.begin() as connection:
            connection.execute(update(workers).where(workers.c.worker_id == worker_id).values(**values))
    except SQLAlchemyError as error:  # the next one tells; a worker never dies of this
        _logger.debug("presence not written: %s", type(error).__name__)
