"""The workers of a study: each one's row, and how many images it trained in each minute."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, delete, func, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import SQLAlchemyError

from hms_tune.database.connect import Storage
from hms_tune.database.tables import now, worker_minutes, workers
from hms_tune.machine.processes import ProcessIdentity

_logger = logging.getLogger(__name__)

KEPT_HOURS = 24
"""How long a worker's minutes are kept."""


@dataclass(frozen=True, slots=True)
class Presence:
    """A worker as others see it. ``devices`` has one entry per slot."""

    worker_id: str
    study_id: int
    version: str
    devices: tuple[str, ...]


def add_worker(storage: Storage, presence: Presence, process: ProcessIdentity) -> None:
    """Write the row of a worker that starts, and remove the study's minutes that are no longer kept."""
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
    old = delete(worker_minutes).where(
        worker_minutes.c.study_id == presence.study_id,
        worker_minutes.c.minute < now() - func.make_interval(0, 0, 0, 0, KEPT_HOURS),
    )
    _try_to_write(storage, lambda connection: connection.execute(old))


def update_worker(
    storage: Storage, presence: Presence, *, usage: dict[str, Any], images: int, stopped: bool = False
) -> bool:
    """Write that a worker lives, or has stopped.

    Parameters
    ----------
    usage : what it takes of its machine
    images : how many it trained since the last update

    Returns
    -------
    Whether it was written. A worker never ends because this failed; its next update makes up for it.
    """
    values = {"last_seen": now(), "usage": usage} | ({"stopped_at": now()} if stopped else {})
    row = update(workers).where(workers.c.worker_id == presence.worker_id).values(**values)

    def write(connection: Connection) -> None:
        if connection.execute(row).rowcount and images:
            _add_images(connection, presence, images)

    return _try_to_write(storage, write)


def _try_to_write(storage: Storage, write: Callable[[Connection], object]) -> bool:
    try:
        with storage.engine.begin() as connection:
            write(connection)
    except SQLAlchemyError as error:
        _logger.debug("the worker's row was not updated: %s", type(error).__name__)
        return False
    return True


def _add_images(connection: Connection, presence: Presence, images: int) -> None:
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
