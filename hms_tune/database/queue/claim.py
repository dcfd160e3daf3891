"""Who may start the next trial. A unit of the budget is claimed in the database before a trial exists.

One trial is one unit: if its attempt is lost, requeued or paused, it goes on and is not counted again. A draw
that is infeasible, for want of memory, is none: another takes its place.
All claims of a study pass through the row lock on its ``studies`` row, so any number of workers start exactly
as many trials as the budget holds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from sqlalchemy import Connection, Row, exists, func, select, text, update
from sqlalchemy.dialects.postgresql import insert

from hms_tune.database.connect import Storage
from hms_tune.database.queries.hours import seconds_at_work
from hms_tune.database.queue.lease import Holder, Lease, grant, granted
from hms_tune.database.queue.promote import give_up_paused, promoted
from hms_tune.database.tables import attempts, now, studies, trials, workers
from hms_tune.errors import UnknownStudyError
from hms_tune.search.optuna_private import models
from hms_tune.search.promotion.rule import Promotion
from hms_tune.trial_state import ENDED, AttemptState, TrialState


class Refusal(Enum):
    """Why no trial may be started now."""

    PAUSED = "the study is paused"
    STOPPED = "the study is stopped"
    BUDGET_SPENT = "the budget is spent and every trial has ended"
    OTHERS_RUNNING = "the budget is spent; other slots still run its last trials"
    OUT_OF_HOURS = "the study's hours are over"
    OUT_OF_GPU_HOURS = "the study's GPU-hours are spent"
    WORKER_DONE = "this worker has run as many trials as it was asked to"
    WORKER_LEAVES = "this worker was asked to leave"


OVER = (Refusal.BUDGET_SPENT, Refusal.OUT_OF_HOURS, Refusal.OUT_OF_GPU_HOURS)
"""Refusals after which no attempt of the study begins, unless its budget is raised."""

FINISHING_FROM = 0.85
"""From this share of the hours or GPU-hours on, promising trials are finished before new ones begin."""


@dataclass(frozen=True, slots=True)
class Budget:
    """What a study may use, over all its workers; None: no limit.

    ``trials``: trials that begin; ``hours``: time in which at least one attempt ran; ``gpu_hours``: time of
    all attempts, also of killed ones, each times the GPUs that it held. When hours or GPU-hours are over no
    attempt begins; those that run go on to their ends.
    """

    trials: int | None = None
    hours: float | None = None
    gpu_hours: float | None = None


def register_study(
    storage: Storage, name: str, budget: Budget, *, start: Sequence[Mapping[str, Any]] = ()
) -> int:
    """Make a study of Optuna's known to the fleet, with its budget. Safe to repeat.

    The budget is the one of the latest worker's study file: a search is extended by raising it there. A
    stopped study stays stopped.

    Parameters
    ----------
    start : values of the trials that wait for a slot in a study that is new to the fleet

    Returns
    -------
    Optuna's id of the study

    Raises
    ------
    UnknownStudyError
        If Optuna has no study of that name.
    """
    try:
        study_id = storage.optuna.get_study_id_from_name(name)
    except KeyError:
        raise UnknownStudyError("no study of that name in the storage", where=name) from None
    columns = {
        "budget_trials": budget.trials,
        "budget_hours": budget.hours,
        "budget_gpu_hours": budget.gpu_hours,
    }
    with storage.engine.begin() as connection:
        # One that was renamed elsewhere has its rows still, under the name that this one takes now.
        renamed = update(studies).where(studies.c.name == name, studies.c.study_id != study_id)
        optunas: Any = models.StudyModel.__table__.alias("optunas")
        connection.execute(
            renamed.where(optunas.c.study_id == studies.c.study_id).values(name=optunas.c.study_name)
        )
        # A study of that name that was deleted elsewhere (the dashboard can) leaves our rows behind.
        connection.execute(studies.delete().where(studies.c.name == name, studies.c.study_id != study_id))
        is_new = connection.execute(
            insert(studies)
            .values(study_id=study_id, name=name, **columns)
            .on_conflict_do_update(index_elements=[studies.c.study_id], set_=columns | {"name": name})
            .returning(text("xmax = 0"))
        ).scalar_one()
        if is_new and start:
            rows = [
                {"study_id": study_id, "state": TrialState.WAITING, "given": dict(given)} for given in start
            ]
            connection.execute(trials.insert(), rows)
    return study_id


def next_ordinal(storage: Storage, study_id: int) -> int:
    """How many slots joined the study before this one: the first slot of a study is 0, on any machine."""
    with storage.engine.begin() as connection:
        ordinal: int = connection.execute(
            update(studies)
            .where(studies.c.study_id == study_id)
            .values(slots_started=studies.c.slots_started + 1)
            .returning(studies.c.slots_started - 1)
        ).scalar_one()
    return ordinal


def claim(
    storage: Storage,
    study_id: int,
    holder: Holder,
    *,
    lease_s: float,
    worker_most: int | None = None,
    promotion: Promotion | None = None,
    token: str | None = None,
) -> Lease | Refusal:
    """Take the next unit of work: a trial that waits, else one that is promoted, else a new one.

    Parameters
    ----------
    lease_s : how long the lease lasts without renewal, s
    worker_most : most trials of the holder's worker, over all its slots; None: no limit
    promotion : which paused trial goes on, in a study whose trials pause; None: in this one none does
    token : names this claim; repeated with the same token after an outage, it takes no second trial

    Raises
    ------
    UnknownStudyError
        If the study was deleted.
    """
    with storage.engine.begin() as connection:
        study = connection.execute(
            select(studies, now().label("read_at")).where(studies.c.study_id == study_id).with_for_update()
        ).one_or_none()
        if study is None:
            raise UnknownStudyError("the study was deleted", where=str(study_id))
        if token is not None and (earlier := granted(connection, token)) is not None:
            return earlier
        taken = _refusal(connection, study_id, study, holder, worker_most) or _next_trial(
            connection, study_id, study, promotion
        )
        if isinstance(taken, Refusal):
            if taken in OVER and not _any_live(connection, study_id):
                give_up_paused(connection, study_id)
            return taken
        connection.execute(
            update(studies)
            .where(studies.c.study_id == study_id)
            .values(started_at=func.coalesce(studies.c.started_at, now()))
        )
        return grant(connection, study_id, taken, holder, lease_s=lease_s, token=token)


def _hours_end(connection: Connection, study_id: int, study: Row[Any], share: float) -> bool:
    """Whether a share of the study's hours is used up."""
    if study.budget_hours is None or study.started_at is None:
        return False
    limit = 3600.0 * share * study.budget_hours
    # Nobody worked for longer than the study is old, which spares the sum over all attempts.
    old = (study.read_at - study.started_at).total_seconds()
    return bool(old >= limit and seconds_at_work(connection, study_id) >= limit)


def _next_trial(
    connection: Connection, study_id: int, study: Row[Any], promotion: Promotion | None
) -> int | Refusal:
    """The trial that goes on or begins now, claimed."""
    waiting = _waiting(connection, study_id)
    if waiting is not None:
        return waiting
    spent = study.budget_trials is not None and trials_claimed(connection, study_id) >= study.budget_trials
    if promotion is not None:
        ending = (
            spent
            or _hours_end(connection, study_id, study, FINISHING_FROM)
            or _gpu_hours_end(connection, study_id, study)
        )
        chosen = promoted(connection, study_id, promotion, most=study.budget_trials, ending=ending)
        if chosen is not None:
            return chosen
    if spent:
        return Refusal.OTHERS_RUNNING if _any_live(connection, study_id) else Refusal.BUDGET_SPENT
    begun: int = connection.execute(
        trials.insert().values(study_id=study_id, state=TrialState.RUNNING).returning(trials.c.trial_id)
    ).scalar_one()
    return begun


def _gpu_hours_end(connection: Connection, study_id: int, study: Row[Any]) -> bool:
    """Whether the study's GPU-hours are nearly used up."""
    budget = study.budget_gpu_hours
    return budget is not None and gpu_hours_used(connection, study_id) >= FINISHING_FROM * budget


def _refusal(
    connection: Connection, study_id: int, study: Row[Any], holder: Holder, worker_most: int | None
) -> Refusal | None:
    """Why this worker may take nothing at all, not even a trial that waits."""
    requested = select(workers.c.requested).where(workers.c.worker_id == holder.worker_id)
    if connection.execute(requested).scalar_one_or_none() in ("finish", "leave"):
        return Refusal.WORKER_LEAVES
    if study.state != "running":
        return Refusal.PAUSED if study.state == "paused" else Refusal.STOPPED
    if _hours_end(connection, study_id, study, 1.0):
        return Refusal.OUT_OF_HOURS
    if study.budget_gpu_hours is not None and gpu_hours_used(connection, study_id) >= study.budget_gpu_hours:
        return Refusal.OUT_OF_GPU_HOURS
    if worker_most is not None and _taken_by(connection, study_id, holder.worker_id) >= worker_most:
        return Refusal.WORKER_DONE
    return None


def gpu_hours_used(connection: Connection, study_id: int) -> float:
    """GPU-hours of all attempts of a study so far, by the database's clock.

    An attempt that was killed is counted up to its recovery, and at most to the expiry of its lease: a worker
    that is gone holds no GPU on the day when somebody finds it missing.
    """
    until = func.least(func.coalesce(attempts.c.ended_at, now()), attempts.c.expires_at)
    seconds = func.greatest(func.extract("epoch", until - attempts.c.claimed_at), 0)
    total = select(func.coalesce(func.sum(attempts.c.gpus * seconds), 0)).where(
        attempts.c.study_id == study_id, attempts.c.gpus > 0
    )
    return float(connection.execute(total).scalar_one()) / 3600.0


def _waiting(connection: Connection, study_id: int) -> int | None:
    """The oldest trial that waits for a slot, now claimed."""
    oldest = (
        select(trials.c.trial_id)
        .where(trials.c.study_id == study_id, trials.c.state == TrialState.WAITING)
        .order_by(trials.c.trial_id)
        .limit(1)
        .with_for_update(skip_locked=True)
        .scalar_subquery()
    )
    taken: int | None = connection.execute(
        update(trials)
        .where(trials.c.trial_id == oldest)
        .values(state=TrialState.RUNNING)
        .returning(trials.c.trial_id)
    ).scalar_one_or_none()
    return taken


def trials_claimed(connection: Connection, study_id: int) -> int:
    """How many units of the budget are taken: by trials that ended, run, wait, or were enqueued."""
    return connection.execute(
        select(func.count())
        .select_from(trials)
        .where(
            trials.c.study_id == study_id, trials.c.state.in_([each for each in TrialState if each.counts])
        )
    ).scalar_one()


def _taken_by(connection: Connection, study_id: int, worker_id: str) -> int:
    """Trials of a study that a worker ran; those it requeued or lost do not count."""
    return connection.execute(
        select(func.count(attempts.c.trial_id.distinct()))
        .select_from(attempts)
        .where(
            attempts.c.study_id == study_id,
            attempts.c.worker_id == worker_id,
            attempts.c.state.in_([AttemptState.RUNNING, AttemptState.PAUSED, *ENDED]),
        )
    ).scalar_one()


def _any_live(connection: Connection, study_id: int) -> bool:
    live = exists().where(attempts.c.study_id == study_id, attempts.c.ended_at.is_(None))
    return bool(connection.execute(select(live)).scalar_one())
