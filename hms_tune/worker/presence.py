"""Who is at work: each worker's row, kept fresh while it lives, with what the worker takes of its machine."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from sqlalchemy import Connection, delete, func, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import SQLAlchemyError

from hms_tune.database.connect import Storage
from hms_tune.database.tables import now, worker_minutes, workers
from hms_tune.machine.processes import this_process
from hms_tune.machine.usage import UsageMeter
from hms_tune.training.events import EpochEnded, Event
from hms_tune.training.observer import TrialInfo

_logger = logging.getLogger(__name__)

SEEN_EVERY_S = 10.0
KEPT_HOURS = 24
"""How long a worker's minutes are kept."""


@dataclass(frozen=True, slots=True)
class Presence:
    """A worker as others see it. ``devices`` has one entry per slot."""

    worker_id: str
    study_id: int
    version: str
    devices: tuple[str, ...]


class ImageCount:
    """Images that the worker's slots trained since they were last taken."""

    def __init__(self) -> None:
        self._images = 0
        self._lock = threading.Lock()

    def add(self, _trial: TrialInfo, event: Event) -> None:
        """Count an epoch, unless an earlier attempt trained it."""
        if isinstance(event, EpochEnded) and not event.replayed:
            with self._lock:
                self._images += event.images

    def put_back(self, images: int) -> None:
        """What could not be written is written with the next."""
        with self._lock:
            self._images += images

    def take(self) -> int:
        """The count, which begins again."""
        with self._lock:
            images, self._images = self._images, 0
        return images


@contextmanager
def announce(storage: Storage, presence: Presence, images: ImageCount | None = None) -> Iterator[None]:
    """Be listed among the study's workers for the duration of the block.

    Parameters
    ----------
    images : what the slots train, written beside the worker's usage minute by minute
    """
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
    meter, counted = UsageMeter(presence.devices), images or ImageCount()

    def touch(*, stopped: bool = False) -> None:
        usage, trained = meter.look().as_json(), counted.take()

        def write(connection: Connection) -> None:
            values = {"last_seen": now(), "usage": usage} | ({"stopped_at": now()} if stopped else {})
            found = update(workers).where(workers.c.worker_id == presence.worker_id).values(**values)
            if connection.execute(found).rowcount and trained:
                _count(connection, presence, trained)

        if not _written(storage, write):
            counted.put_back(trained)

    _written(storage, lambda connection: _forget(connection, presence))
    with _repeated(touch, SEEN_EVERY_S):
        yield
    touch(stopped=True)


@contextmanager
def _repeated(action: Callable[[], None], every_s: float) -> Iterator[None]:
    """Call ``action`` from a thread until the block is left."""
    closing = threading.Event()

    def run() -> None:
        while not closing.wait(every_s):
            action()

    thread = threading.Thread(target=run, name="presence", daemon=True)
    thread.start()
    try:
        yield
    finally:
        closing.set()
        thread.join(timeout=10.0)


def _written(storage: Storage, write: Callable[[Connection], None]) -> bool:
    try:
        with storage.engine.begin() as connection:
            write(connection)
    except SQLAlchemyError as error:  # the next one tells; a worker never dies of this
        _logger.debug("presence not written: %s", type(error).__name__)
        return False
    return True


def _count(connection: Connection, presence: Presence, images: int) -> None:
    """Add images to the worker's minute."""
    row = insert(worker_minutes).values(
        worker_id=presence.worker_id,
        study_id=presence.study_id,
        minute=func.date_trunc("minute", now()),
        images=images,
    )
    connection.execute(
        row.on_conflict_do_update(
            index_elements=[worker_minutes.c.worker_id, worker_minutes.c.minute],
            set_={"images": worker_minutes.c.images + row.excluded.images},
        )
    )


def _forget(connection: Connection, presence: Presence) -> None:
    """Remove the study's minutes that nobody looks at any more."""
    connection.execute(
        delete(worker_minutes).where(
            worker_minutes.c.study_id == presence.study_id,
            worker_minutes.c.minute < now() - func.make_interval(0, 0, 0, 0, KEPT_HOURS),
        )
    )
