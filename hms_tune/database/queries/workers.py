"""The workers of a study: each one's row, the images it trained in each minute, and the trials it is at."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import Connection, Row, delete, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import SQLAlchemyError

from hms_tune.database.connect import Storage
from hms_tune.database.tables import attempts, now, trials, worker_minutes, workers
from hms_tune.machine.processes import ProcessIdentity
from hms_tune.search.optuna_private import models

_logger = logging.getLogger(__name__)

_REPORTS: Any = models.TrialIntermediateValueModel.__table__

SEEN_EVERY_S = 10.0
"""How often a worker shows that it lives."""

KEPT_HOURS = 24
"""How long a worker's minutes are kept."""


@dataclass(frozen=True, slots=True)
class Presence:
    """A worker as others see it. ``devices`` has one entry per slot; ``torch`` is PyTorch's version."""

    worker_id: str
    study_id: int
    version: str
    devices: tuple[str, ...]
    torch: str | None = None


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
                torch=presence.torch,
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


@dataclass(frozen=True, slots=True)
class RunningTrial:
    """A trial that a slot is at. ``requested`` is ``stop`` once a person has stopped it.

    ``trial`` and ``attempt`` are numbers, None until the attempt has its Optuna trial; ``estimate`` is the KL
    it last reported, at ``step``. ``fold`` is the only one, from 0, that the slot trains, for another's
    attempt; None: the slot has the trial.
    """

    trial: int | None
    attempt: int | None
    slot: str
    worker_id: str
    host: str
    gpus: float
    started_at: datetime
    expires_in_s: float
    requested: Literal["run", "stop"]
    step: int | None = None
    estimate: float | None = None
    fold: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerRow:
    """A worker that did not say that it stopped. ``silent_s`` is the time since it was last seen, s."""

    worker_id: str
    process: ProcessIdentity
    slots: int
    devices: str
    version: str
    started_at: datetime
    requested: Literal["work", "finish", "leave"]
    usage: dict[str, Any] | None
    silent_s: float

    def is_gone(self, observer: ProcessIdentity) -> bool:
        """Whether its process is gone from the observer's machine, and no clone of it shows its life."""
        return self.silent_s > 2 * SEEN_EVERY_S and self.process.is_gone_from_here(observer)


def process_of(row: Row[Any]) -> ProcessIdentity:
    """The process that a row of ``workers`` or ``attempts`` names."""
    return ProcessIdentity(row.host, row.pid, row.process_started, row.machine, row.worker_id)


def running_trials(connection: Connection, study_id: int) -> tuple[RunningTrial, ...]:
    """The trials that slots are at, the longest running first."""
    rows = connection.execute(
        select(
            attempts,
            trials.c.number.label("trial"),
            trials.c.requested,
            func.extract("epoch", attempts.c.expires_at - now()).label("left_s"),
        )
        .join_from(attempts, trials, attempts.c.trial_id == trials.c.trial_id)
        .where(attempts.c.study_id == study_id, attempts.c.ended_at.is_(None))
        .order_by(attempts.c.lease_id)
    ).all()
    reports = _last_reports(
        connection, [row.optuna_trial_id for row in rows if row.optuna_trial_id is not None]
    )
    found = []
    for row in rows:
        step, estimate = reports.get(row.optuna_trial_id, (None, None))
        found.append(
            RunningTrial(
                trial=row.trial,
                attempt=row.number,
                slot=row.slot,
                worker_id=row.worker_id,
                host=row.host,
                gpus=row.gpus,
                started_at=row.claimed_at,
                expires_in_s=round(float(row.left_s), 1),
                requested=row.requested,
                step=step,
                estimate=estimate,
                fold=row.fold if row.helps else None,
            )
        )
    return tuple(found)


def workers_of_study(
    connection: Connection, study_id: int, *, seen_within_s: float | None = None
) -> tuple[WorkerRow, ...]:
    """The workers of a study that did not stop, in the order in which they started.

    Parameters
    ----------
    seen_within_s : leave out those that were last seen longer ago, s; None: leave none out
    """
    silent_s = func.extract("epoch", now() - workers.c.last_seen)
    statement = select(workers, silent_s.label("silent_s")).where(
        workers.c.study_id == study_id, workers.c.stopped_at.is_(None)
    )
    if seen_within_s is not None:
        statement = statement.where(silent_s < seen_within_s)
    return tuple(
        WorkerRow(
            worker_id=row.worker_id,
            process=process_of(row),
            slots=row.slots,
            devices=row.devices,
            version=row.version,
            started_at=row.started_at,
            requested=row.requested,
            usage=row.usage,
            silent_s=float(row.silent_s),
        )
        for row in connection.execute(statement.order_by(workers.c.started_at))
    )


def _last_reports(connection: Connection, optuna_trial_ids: Sequence[int]) -> dict[int, tuple[int, float]]:
    """The last step that each of these attempts reported, and the value there, by Optuna's id."""
    last = (
        select(_REPORTS.c.trial_id, func.max(_REPORTS.c.step).label("step"))
        .where(_REPORTS.c.trial_id.in_(optuna_trial_ids), _REPORTS.c.intermediate_value.is_not(None))
        .group_by(_REPORTS.c.trial_id)
        .subquery()
    )
    rows = connection.execute(
        select(_REPORTS.c.trial_id, _REPORTS.c.step, _REPORTS.c.intermediate_value).join(
            last, (last.c.trial_id == _REPORTS.c.trial_id) & (last.c.step == _REPORTS.c.step)
        )
    )
    return {row.trial_id: (row.step, float(row.intermediate_value)) for row in rows}
