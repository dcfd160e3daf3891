"""What a person requests of a fleet: written into the database, seen by every slot within an epoch.

Nothing is sent to a worker. It reads the requests when it claims a trial and at each of a trial's events, so
that a command works from anywhere the database can be reached, and also while no worker is up.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import optuna

from hms_tune.config.yaml_lines import nearest
from hms_tune.database.connect import Storage
from hms_tune.database.queries.studies import RequestedState, delete_study_rows
from hms_tune.database.queue.requests import (
    request_study_state,
    request_trial_stop,
    request_workers_leave,
)
from hms_tune.errors import UsageError
from hms_tune.studies.lookup import find_study
from hms_tune.studies.status import status
from hms_tune.studies.status_types import WorkerStatus


def set_state(storage: Storage, name: str, state: RequestedState) -> None:
    """Pause, resume or stop a study; its workers follow at the next event.

    Raises
    ------
    UnknownStudyError
        If there is no such study, or no worker ever joined it.
    """
    request_study_state(storage, find_study(storage, name), state)


def stop_trial(storage: Storage, name: str, number: int) -> Literal["stopping", "stopped"]:
    """End a trial for good. It counts as failed, and its unit of the budget stays used.

    Parameters
    ----------
    number : number of any of the trial's attempts

    Returns
    -------
    ``stopping``: a slot is at it, and ends it at the next event; ``stopped``: it waited for a slot, and has
    ended

    Raises
    ------
    UnknownStudyError
        If there is no such study.
    UsageError
        If it has no such trial, or the trial has ended.
    """
    answer = request_trial_stop(storage, find_study(storage, name), number)
    where = f"study {name}"
    match answer.kind:
        case "unknown":
            hint = "hms-tune status names those that run"
            raise UsageError(f"no worker ran a trial {number}", where=where, hint=hint)
        case "ended":
            raise UsageError(f"trial {number} has ended ({answer.state})", where=where)
        case "stopping" | "stopped":
            return answer.kind


def drain(storage: Storage, name: str, worker: str, *, at_once: bool = False) -> tuple[WorkerStatus, ...]:
    """Let a worker leave: it claims no more trials, and ends when its slots are empty.

    Parameters
    ----------
    worker : a worker's id or its beginning, or a host, which means all its workers at this study
    at_once : trials are requeued within an epoch, and continue elsewhere; else they run to their ends

    Returns
    -------
    The workers that were told

    Raises
    ------
    UnknownStudyError
        If there is no such study.
    StorageError
        If another program made it.
    UsageError
        If no worker at it goes by that name, or several do.
    """
    study_id = find_study(storage, name)
    chosen = _named(status(storage, name).workers, worker, name)
    request_workers_leave(storage, study_id, [each.worker_id for each in chosen], at_once=at_once)
    return chosen


def delete_study(storage: Storage, name: str) -> None:
    """Delete a study, its trials, and what the fleet knows of it. Checkpoints are the caller's.

    Raises
    ------
    UnknownStudyError
        If there is no such study.
    StorageError
        If another program made it.
    UsageError
        If a worker is at it.
    """
    study_id = find_study(storage, name)
    current = status(storage, name)
    busy = sum(1 for worker in current.workers if worker.state == "working")
    if busy:
        raise UsageError(
            f"{busy} workers are at it", where=f"study {name}", hint=f"Run hms-tune study stop {name} first"
        )
    with storage.transaction() as connection:
        delete_study_rows(connection, study_id)
    optuna.delete_study(study_name=name, storage=storage.optuna)


def _named(at_work: Sequence[WorkerStatus], worker: str, study: str) -> tuple[WorkerStatus, ...]:
    exact = tuple(each for each in at_work if worker in (each.worker_id, each.host))
    if exact:
        return exact
    begun = tuple(each for each in at_work if worker and each.worker_id.startswith(worker))
    if len(begun) == 1:
        return begun
    where = f"study {study}"
    if begun:
        raise UsageError(
            f'several workers begin with "{worker}": {", ".join(each.worker_id for each in begun)}',
            where=where,
        )
    if not at_work:
        raise UsageError("no worker is at it", where=where)
    known = sorted({text for each in at_work for text in (each.worker_id, each.host)})
    raise UsageError(f'no worker and no host "{worker}" is at it; {nearest(worker, known)}', where=where)
