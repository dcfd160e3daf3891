"""What a person tells a fleet: written into the database, seen by every slot within an epoch.

Nothing is sent to a worker. It reads what is wanted when it claims a trial and at each of a trial's events.
So a command works from anywhere the database can be reached, and also while no worker is up.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import optuna
from sqlalchemy import case, delete, select, update

from hms_tune.config.yaml_lines import nearest
from hms_tune.database.connect import Storage
from hms_tune.database.queue.end import STOPPED_BY_A_PERSON, ended
from hms_tune.database.queue.lease import DesiredState
from hms_tune.database.tables import leases, lineages, studies, workers
from hms_tune.errors import UnknownStudyError, UsageError
from hms_tune.studies.status import find_study, status
from hms_tune.studies.status_types import WorkerStatus


def set_state(storage: Storage, name: str, state: DesiredState) -> None:
    """Pause, resume or stop a study; its workers follow at the next event.

    Raises
    ------
    UnknownStudyError
        If there is no such study, or no worker ever joined it.
    """
    study_id = find_study(storage, name)
    with storage.engine.begin() as connection:
        changed = connection.execute(
            update(studies)
            .where(studies.c.study_id == study_id)
            .values(state=state)
            .returning(studies.c.name)
        ).one_or_none()
    if changed is None:
        raise UnknownStudyError("no worker has joined this study yet", where=name)


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
    study_id = find_study(storage, name)
    of_attempt = (
        select(leases.c.lineage_id)
        .where(leases.c.study_id == study_id, leases.c.number == number)
        .scalar_subquery()
    )
    # One statement: whether a slot takes the trial or gives it back meanwhile, one of both sees the other.
    stopped = {
        column: case((lineages.c.state == "waiting", value), else_=lineages.c[column])
        for column, value in ended("failed", STOPPED_BY_A_PERSON).items()
    }
    with storage.engine.begin() as connection:
        state = connection.execute(
            update(lineages)
            .where(lineages.c.lineage_id == of_attempt, lineages.c.state != "ended")
            .values(wanted="stop", **stopped)
            .returning(lineages.c.state)
        ).scalar_one_or_none()
        if state is not None:
            return "stopped" if state == "ended" else "stopping"
        outcome = connection.execute(
            select(lineages.c.outcome).where(lineages.c.lineage_id == of_attempt)
        ).scalar_one_or_none()
    if outcome is None:
        raise UsageError(
            f"no worker ran a trial {number}",
            where=f"study {name}",
            mend="hms-tune status names those that run",
        )
    raise UsageError(f"trial {number} has ended ({outcome})", where=f"study {name}")


def drain(storage: Storage, name: str, worker: str, *, at_once: bool = False) -> tuple[WorkerStatus, ...]:
    """Let a worker leave: it claims no more trials, and exits 0 when its slots are empty.

    Parameters
    ----------
    worker : a worker's id or its beginning, or a host, which means all its workers at this study
    at_once : trials are handed back within an epoch, and continue elsewhere; else they run to their ends

    Returns
    -------
    The workers that were told

    Raises
    ------
    UnknownStudyError
        If there is no such study.
    UsageError
        If no worker at it goes by that name, or several do.
    """
    study_id = find_study(storage, name)
    chosen = _named(status(storage, name).workers, worker, name)
    with storage.engine.begin() as connection:
        connection.execute(
            update(workers)
            .where(
                workers.c.study_id == study_id,
                workers.c.worker_id.in_([each.worker_id for each in chosen]),
            )
            .values(wanted="leave" if at_once else "finish")
        )
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
            f"{busy} workers are at it", where=f"study {name}", mend=f"Run hms-tune study stop {name} first"
        )
    with storage.engine.begin() as connection:
        connection.execute(delete(studies).where(studies.c.study_id == study_id))
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
