"""Who may start the next trial. A unit of the budget is claimed before its Optuna trial exists.

The claim makes the trial's row, if it has none.

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

from sqlalchemy import Connection, Row, exists, null, select, text, update
from sqlalchemy.dialects.postgresql import insert

from hms_tune.data.identity import DataIdentity
from hms_tune.database.connect import Storage
from hms_tune.database.queries.data_sets import agree_on_data, id_of_joined
from hms_tune.database.queries.hours import at_work
from hms_tune.database.queries.patience import patience_used
from hms_tune.database.queue.lease import Holder, Lease, grant, granted
from hms_tune.database.queue.promote import give_up_paused, promoted
from hms_tune.database.queue.shared_folds import free_fold
from hms_tune.database.queue.usage import claimed, gpu_hours, taken_by
from hms_tune.database.tables import attempts, now, studies, trials, workers
from hms_tune.errors import UnknownStudyError
from hms_tune.search.optuna_private import models
from hms_tune.search.promotion.rule import Promotion
from hms_tune.trial_state import TrialState


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

    ``trials``: all but infeasible ones, also those that wait; ``hours``: time in which at least one attempt
    ran; ``gpu_hours``: time of all attempts, also of killed ones, each times the GPUs that it held. When
    hours or GPU-hours are over no attempt begins; those that run go on to their ends. ``patience``: draws in
    a row that promise less than the noise; after them no trial begins, as when there are as many as
    ``trials``.
    """

    trials: int | None = None
    hours: float | None = None
    gpu_hours: float | None = None
    patience: int | None = None


def register_study(
    storage: Storage,
    name: str,
    budget: Budget,
    *,
    start: Sequence[Mapping[str, Any]] = (),
    data: DataIdentity | None = None,
) -> int:
    """Make a study of Optuna's known to the fleet, with its budget. Safe to repeat.

    The budget is the one of the latest worker's study file: a search is extended by raising it there. A
    stopped study stays stopped.

    Parameters
    ----------
    start : values of the trials that wait for a slot in a study that is new to the fleet
    data : what the caller's trials would run on; None: it runs none

    Returns
    -------
    Optuna's id of the study

    Raises
    ------
    UnknownStudyError
        If Optuna has no study of that name.
    DataChangedError
        If its trials ran on other data.
    """
    try:
        study_id = storage.optuna.get_study_id_from_name(name)
    except KeyError:
        raise UnknownStudyError("no study of that name in the storage", where=name) from None
    columns = {
        "budget_trials": budget.trials,
        "budget_hours": budget.hours,
        "budget_gpu_hours": budget.gpu_hours,
        "budget_patience": budget.patience,
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
        if data is not None:
            agree_on_data(connection, study_id, name, data)
    return study_id


def is_registered(storage: Storage, name: str) -> bool:
    """Whether Optuna has a study of that name which the fleet knows."""
    optunas: Any = models.StudyModel.__table__
    known = exists().where(optunas.c.study_name == name, optunas.c.study_id == studies.c.study_id)
    with storage.statements() as connection:
        return bool(connection.execute(select(known)).scalar_one())


def keep_to_data(storage: Storage, name: str, data: DataIdentity) -> None:
    """Keep a study that workers have joined to one data set; do nothing for one that is still to be made.

    Raises
    ------
    DataChangedError
        If its trials ran on other data.
    """
    with storage.engine.begin() as connection:
        study_id = id_of_joined(connection, name)
        if study_id is not None:
            agree_on_data(connection, study_id, name, data)


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
    max_trials: int | None = None,
    promotion: Promotion | None = None,
    helps: bool = False,
    token: str | None = None,
) -> Lease | Refusal:
    """Take the next unit of work.

    That is a trial that waits, else a fold of a trial that was promoted over several, else a trial that is
    promoted now, else a new one.

    Parameters
    ----------
    lease_s : how long the lease lasts without renewal, s
    max_trials : most trials of the holder's worker, over all its slots; None: no limit
    promotion : which paused trial goes on, in a study whose trials pause; None: in this one none does
    helps : whether the holder can train one fold alone
    token : names this claim; repeated with the same token after an outage, it takes no second trial

    Raises
    ------
    UnknownStudyError
        If the study was deleted.
    """
    with storage.engine.begin() as connection:
        study = connection.execute(
            select(studies, now().label("read_at"))
            .where(studies.c.study_id == study_id)
            .with_for_update(key_share=True)
        ).one_or_none()
        if study is None:
            raise UnknownStudyError("the study was deleted", where=str(study_id))
        facts = _facts(connection, study_id, study, holder, max_trials, token)
        if token is not None and facts.granted and (earlier := granted(connection, token)) is not None:
            return earlier
        taken = _refusal(study, facts, max_trials) or _next(
            connection, study_id, study, facts, promotion, helps=helps
        )
        if isinstance(taken, Refusal):
            if taken in OVER and not facts.any_live:
                give_up_paused(connection, study_id)
            return taken
        if study.started_at is None:
            connection.execute(update(studies).where(studies.c.study_id == study_id).values(started_at=now()))
        trial_id, fold = taken
        return grant(connection, study_id, trial_id, holder, lease_s=lease_s, fold=fold, token=token)


def _facts(
    connection: Connection,
    study_id: int,
    study: Row[Any],
    holder: Holder,
    max_trials: int | None,
    token: str | None,
) -> Row[Any]:
    """All that decides a claim, in one statement, which sees what was committed before the lock was had."""
    live = exists().where(attempts.c.study_id == study_id, attempts.c.ended_at.is_(None))
    earlier = exists().where(attempts.c.token == token, attempts.c.ended_at.is_(None))
    requested = select(workers.c.requested).where(workers.c.worker_id == holder.worker_id).scalar_subquery()
    waiting = exists().where(trials.c.study_id == study_id, trials.c.state == TrialState.WAITING)
    asked = {
        "claimed": None if study.budget_trials is None else claimed(study_id),
        "seconds": at_work(study_id) if _may_have_spent_hours(study) else None,
        "gpu_hours": None if study.budget_gpu_hours is None else gpu_hours(study_id),
        "taken": None if max_trials is None else taken_by(study_id, holder.worker_id),
    }
    return connection.execute(
        select(
            earlier.label("granted"),
            requested.label("requested"),
            waiting.label("waiting"),
            live.label("any_live"),
            *((null() if each is None else each).label(name) for name, each in asked.items()),
        )
    ).one()


def _may_have_spent_hours(study: Row[Any]) -> bool:
    """Whether a study is old enough; nobody worked for longer, and the sum over all attempts is spared."""
    if study.budget_hours is None or study.started_at is None:
        return False
    old = (study.read_at - study.started_at).total_seconds()
    return bool(old >= 3600.0 * FINISHING_FROM * study.budget_hours)


def _hours_end(study: Row[Any], facts: Row[Any], share: float) -> bool:
    """Whether a share of the study's hours is used up."""
    budget = study.budget_hours
    return budget is not None and facts.seconds is not None and facts.seconds >= 3600.0 * share * budget


def _gpu_hours_end(study: Row[Any], facts: Row[Any], share: float) -> bool:
    """Whether a share of the study's GPU-hours is used up."""
    budget = study.budget_gpu_hours
    return budget is not None and facts.gpu_hours >= share * budget


def _next(
    connection: Connection,
    study_id: int,
    study: Row[Any],
    facts: Row[Any],
    promotion: Promotion | None,
    *,
    helps: bool,
) -> tuple[int, int | None] | Refusal:
    """The trial that goes on or begins now, claimed; or a trial and the fold to help it with."""
    waiting = _waiting(connection, study_id) if facts.waiting else None
    if waiting is not None:
        return waiting, None
    if helps and facts.any_live and (shared := free_fold(connection, study_id)) is not None:
        return shared
    spent = study.budget_trials is not None and facts.claimed >= study.budget_trials
    if study.budget_patience is not None:
        spent = spent or patience_used(connection, study_id, study.budget_patience).is_over
    if promotion is not None:
        ending = (
            spent or _hours_end(study, facts, FINISHING_FROM) or _gpu_hours_end(study, facts, FINISHING_FROM)
        )
        chosen = promoted(connection, study_id, promotion, most=study.budget_trials, ending=ending)
        if chosen is not None:
            return chosen, None
    if spent:
        return Refusal.OTHERS_RUNNING if facts.any_live else Refusal.BUDGET_SPENT
    begun: int = connection.execute(
        trials.insert().values(study_id=study_id, state=TrialState.RUNNING).returning(trials.c.trial_id)
    ).scalar_one()
    return begun, None


def _refusal(study: Row[Any], facts: Row[Any], max_trials: int | None) -> Refusal | None:
    """Why this worker may take nothing at all, not even a trial that waits."""
    if facts.requested in ("finish", "leave"):
        return Refusal.WORKER_LEAVES
    if study.state != "running":
        return Refusal.PAUSED if study.state == "paused" else Refusal.STOPPED
    if _hours_end(study, facts, 1.0):
        return Refusal.OUT_OF_HOURS
    if _gpu_hours_end(study, facts, 1.0):
        return Refusal.OUT_OF_GPU_HOURS
    if max_trials is not None and facts.taken >= max_trials:
        return Refusal.WORKER_DONE
    return None


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
