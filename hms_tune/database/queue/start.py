"""From a claim to an Optuna trial, so that dying anywhere loses nothing.

An attempt's Optuna trial is made and bound to its lease in one transaction: it is there with its lease, or
not at all. If the answer to the COMMIT is lost, the lease has its trial when it is asked again.

A successor is created with the values of its predecessor in place, not by ``enqueue_trial``: an enqueued
trial is popped by whoever asks next, passes through WAITING, and keeps its values only as ``fixed_params``.
The trial's row, claimed under the study's row lock, names the one worker that continues it. ``study enqueue``
goes the same way: it leaves a trial with the values given, which a claim takes as it takes any other that
waits.
"""

from __future__ import annotations

import itertools
from typing import Any, cast

import optuna
from optuna.trial import FrozenTrial, TrialState, create_trial
from sqlalchemy import Connection, Row, func, or_, select, update

from hms_tune.database.connect import Storage
from hms_tune.database.locks import lock_study
from hms_tune.database.optuna_trial import CONFIG_HASH_ATTRIBUTE, LEASE_ATTRIBUTE, TRIAL_ATTRIBUTE
from hms_tune.database.queue.attempt import Attempt
from hms_tune.database.queue.end import DELETED, end_lease_and_trial, result_of_deleted
from hms_tune.database.queue.lease import Lease, is_lease, lease_lost
from hms_tune.database.tables import attempts, studies, trials
from hms_tune.database.trial_writer import MadeTrial, insert_trial, take_waiting_trial
from hms_tune.errors import LeaseLostError, RewoundError, UnknownStudyError
from hms_tune.search.list_samplers import GridSampler
from hms_tune.search.list_turns import (
    CONTINUES_ATTRIBUTE,
    FIXED_PARAMS,
    STANDS_IN_FOR,
    TURN,
    goes_through_a_list,
    is_enqueued,
)
from hms_tune.search.optuna_private import all_trials_of, trial_id_of
from hms_tune.search.study import stored_study_file, trial_limit


def begin_attempt(storage: Storage, study: optuna.Study, lease: Lease) -> Attempt:
    """Make the Optuna trial of a claimed lease. Safe to repeat after an outage.

    That is the continuation of the trial's last attempt, or the values it was enqueued with; else a
    configuration that a script left with Optuna's ``enqueue_trial``, else a new one.

    Raises
    ------
    LeaseLostError
        If the lease ended meanwhile, or somebody deleted the trial that was to go on; then it is over.
    UnknownStudyError
        If the study was deleted.
    """
    memory = storage.optuna.shared
    newest = memory.newest(lease.study_id)
    try:
        with storage.transaction() as connection:
            trial = _lock_attempt(connection, lease)
            predecessor = _predecessor(storage, trial)
            is_deleted = predecessor is None and _goes_on(trial)
            if is_deleted:
                result = result_of_deleted(storage, lease, study.study_name)
                end_lease_and_trial(connection, lease, result, set_aside=False)
            else:
                made = _make_optuna_trial(connection, study, lease, trial, predecessor)
                number = bind(connection, lease, made.optuna_trial_id, made.number)
        if is_deleted:
            raise LeaseLostError(
                f"trial {trial.number} was {DELETED}; it does not go on", where=study.study_name
            )
        if not memory.takes_in(lease.study_id, made, newest=newest):
            raise rewound(study.study_name)
        optuna_trial = optuna.Trial(study, made.optuna_trial_id)
    except KeyError:
        raise UnknownStudyError("the study was deleted", where=study.study_name) from None
    storage.optuna.keep_drawn(made.optuna_trial_id)
    return Attempt(lease, optuna_trial, made.number, trial=number, rung=trial.rung or 0)


def _goes_on(trial: Row[Any]) -> bool:
    """Whether a trial had an attempt before the one that is to begin."""
    return trial.optuna_trial_id is None and trial.last_optuna_trial_id is not None


def _predecessor(storage: Storage, trial: Row[Any]) -> FrozenTrial | None:
    """The attempt that the one to begin goes on from; None: it is the first, or that one is not there."""
    try:
        return storage.optuna.get_trial(trial.last_optuna_trial_id) if _goes_on(trial) else None
    except KeyError:
        return None


def _lock_attempt(connection: Connection, lease: Lease) -> Row[Any]:
    """The trial of a lease, and the attempt's Optuna trial if it has one; both rows stay locked.

    Raises
    ------
    LeaseLostError
        If the lease has ended.
    """
    row = connection.execute(
        select(
            attempts.c.optuna_trial_id,
            attempts.c.number.label("attempt"),
            trials.c.number,
            trials.c.last_optuna_trial_id,
            trials.c.given,
            trials.c.rung,
        )
        .join_from(attempts, trials, attempts.c.trial_id == trials.c.trial_id)
        .where(is_lease(lease), attempts.c.ended_at.is_(None))
        .with_for_update(of=attempts)
    ).one_or_none()
    if row is None:
        raise lease_lost(lease)
    return cast("Row[Any]", row)


def rewound(study: str) -> RewoundError:
    """The error of a process whose Optuna knows ended trials that the database has never heard of."""
    return RewoundError("the database is older than it was: a backup was restored", where=f"study {study}")


def bind(connection: Connection, lease: Lease, optuna_trial_id: int, number: int) -> int:
    """Tie an Optuna trial to its lease; returns the trial's number, which is that of its first attempt."""
    attempt = (
        update(attempts).where(is_lease(lease)).values(optuna_trial_id=optuna_trial_id, number=number).cte()
    )
    first: int = connection.execute(
        update(trials)
        .add_cte(attempt)
        .where(trials.c.trial_id == lease.trial_id)
        .values(last_optuna_trial_id=optuna_trial_id, number=func.coalesce(trials.c.number, number))
        .returning(trials.c.number)
    ).scalar_one()
    return first


def _make_optuna_trial(
    connection: Connection,
    study: optuna.Study,
    lease: Lease,
    trial: Row[Any],
    predecessor: FrozenTrial | None,
) -> MadeTrial:
    if trial.optuna_trial_id is not None:
        return MadeTrial(trial.optuna_trial_id, trial.attempt)
    if predecessor is not None:
        template = _template(lease, predecessor)
    elif trial.given is not None:
        template = _template(lease)
        template.system_attrs[FIXED_PARAMS] = trial.given
    else:
        waiting = take_waiting_trial(
            connection, lease.study_id, {LEASE_ATTRIBUTE: lease.lease_id}, numbered=TRIAL_ATTRIBUTE
        )
        if waiting is not None:
            if isinstance(study.sampler, GridSampler):
                _raise_grid_budget(connection, study, lease)
            return waiting
        template = _template(lease)
    if not is_enqueued(template):
        _take_turn(connection, study, lease, template)
    return insert_trial(connection, lease.study_id, template, numbered=TRIAL_ATTRIBUTE, number=trial.number)


def _raise_grid_budget(connection: Connection, study: optuna.Study, lease: Lease) -> None:
    """Let a grid have as many trials as cells and what was enqueued, within the budget that a person gave."""
    limit = trial_limit(stored_study_file(study), study)
    connection.execute(
        update(studies).where(studies.c.study_id == lease.study_id).values(budget_trials=limit)
    )


def _template(lease: Lease, predecessor: FrozenTrial | None = None) -> FrozenTrial:
    attributes: dict[str, Any] = {LEASE_ATTRIBUTE: lease.lease_id}
    if predecessor is None:
        return create_trial(state=TrialState.RUNNING, user_attrs=attributes)
    attributes[CONTINUES_ATTRIBUTE] = predecessor.number
    return create_trial(
        state=TrialState.RUNNING,
        params=predecessor.params,
        distributions=predecessor.distributions,
        user_attrs=attributes,
        system_attrs=_inherited(predecessor),
    )


def _inherited(predecessor: FrozenTrial) -> dict[str, Any]:
    """System attributes of the next attempt: the last one's values if all were drawn, else its draw's place.

    Whatever else stands there (rungs, constraints, artifact links) belongs to the attempt that was lost.
    """
    system = predecessor.system_attrs
    if CONFIG_HASH_ATTRIBUTE in predecessor.user_attrs:
        return {FIXED_PARAMS: predecessor.params}
    kept = {key: system[key] for key in (FIXED_PARAMS, STANDS_IN_FOR, TURN) if key in system}
    if FIXED_PARAMS not in kept:
        kept.setdefault(STANDS_IN_FOR, predecessor.number)
    return kept


def _take_turn(connection: Connection, study: optuna.Study, lease: Lease, template: FrozenTrial) -> None:
    """Give a trial that is to be drawn a turn: a position in the list of a grid or of QMC.

    It is the predecessor's if that is still free, else the first free one. That happens under the lock of the
    study's row: two workers would otherwise take one turn. An orphan, which arrived after its lease had ended
    and never runs, keeps none. What a turn is: :mod:`~hms_tune.search.list_turns`.
    """
    if not goes_through_a_list(study.sampler):
        return
    lock_study(connection, lease.study_id)
    rows = connection.execute(
        select(attempts.c.lease_id, attempts.c.optuna_trial_id, attempts.c.trial_id).where(
            attempts.c.study_id == lease.study_id,
            or_(attempts.c.optuna_trial_id.is_not(None), attempts.c.ended_at.is_(None)),
            attempts.c.trial_id != lease.trial_id,
        )
    ).all()
    bound = {row.optuna_trial_id for row in rows}
    unbound_leases = {row.lease_id for row in rows if row.optuna_trial_id is None}
    taken = {
        trial.system_attrs[TURN]
        for trial in all_trials_of(study)
        if TURN in trial.system_attrs
        and (trial_id_of(trial) in bound or trial.user_attrs.get(LEASE_ATTRIBUTE) in unbound_leases)
    }
    kept = template.system_attrs.get(TURN)
    if kept is None or kept in taken:
        template.system_attrs[TURN] = next(turn for turn in itertools.count() if turn not in taken)
