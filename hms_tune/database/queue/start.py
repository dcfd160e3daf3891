"""From a claim to an Optuna trial, so that dying anywhere loses nothing.

An attempt carries its lease's id as a user attribute from the moment it exists, before it is bound to the
lease. A worker that dies in between leaves a RUNNING trial that :mod:`~hms_tune.database.queue.recovery`
finds by that attribute; and where an outage cut the worker off, so does the worker itself when it asks again.

A successor is created with the values of its predecessor in place (``create_new_trial`` with a template), not
by ``enqueue_trial``: an enqueued trial is popped by whoever asks next, passes through WAITING, and keeps
its values only as ``fixed_params``. The trial's row, claimed under the study's row lock, names the one worker
that continues it. ``study enqueue`` goes the same way: it leaves a trial with the values given, which a claim
takes as it takes any other that waits.
"""

from __future__ import annotations

import itertools
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState, create_trial
from sqlalchemy import Connection, func, or_, select, update

from hms_tune.database.connect import Storage
from hms_tune.database.optuna_trial import CONFIG_HASH_ATTRIBUTE, LEASE_ATTRIBUTE, TRIAL_ATTRIBUTE
from hms_tune.database.queue.end import Attempt
from hms_tune.database.queue.lease import Lease, hold
from hms_tune.database.queue.promote import last_rung
from hms_tune.database.tables import attempts, studies, trials
from hms_tune.errors import UnknownStudyError
from hms_tune.search.list_samplers import GridSampler
from hms_tune.search.list_turns import (
    CONTINUES_ATTRIBUTE,
    FIXED_PARAMS,
    STANDS_IN_FOR,
    TURN,
    goes_through_a_list,
    is_enqueued,
)
from hms_tune.search.optuna_private import trial_id_of
from hms_tune.search.study import stored_study_file, trial_limit


def ask(storage: Storage, study: optuna.Study, lease: Lease, *, again: bool = False) -> Attempt:
    """Make the Optuna trial of a claimed lease.

    That is the continuation of the trial's last attempt, or the values it was enqueued with; else a
    configuration that a script left with Optuna's ``enqueue_trial``, else a new one. It happens under the
    study's lock: Optuna's grid sampler would otherwise give two workers one point.

    Parameters
    ----------
    again : whether an earlier call for this lease was cut off by an outage, and may have left a trial

    Raises
    ------
    LeaseLostError
        If the lease ended meanwhile.
    UnknownStudyError
        If the study was deleted.
    """
    with storage.study_lock(lease.study_id) as connection:
        assert connection is not None
        hold(connection, lease)
        try:
            optuna_trial_id = unbound(storage, lease) if again else None
            if optuna_trial_id is None:
                optuna_trial_id = _begun(storage, connection, study, lease)
            if optuna_trial_id is None:
                optuna_trial_id = _enqueued(storage, connection, study, lease)
            if optuna_trial_id is None:
                template = _template(connection, lease)
                _take_turn(storage, connection, study, lease, template)
                optuna_trial_id = storage.optuna.create_new_trial(lease.study_id, template)
            # Optuna's cache knows trials that went through it alone; this shows it the new one.
            study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
            optuna_trial = optuna.Trial(study, optuna_trial_id)
        except KeyError:
            raise UnknownStudyError("the study was deleted", where=study.study_name) from None
        number = bind(connection, lease, optuna_trial_id, optuna_trial.number)
        optuna_trial.set_user_attr(TRIAL_ATTRIBUTE, number)
        rung = last_rung(connection, lease.trial_id)
    return Attempt(
        lease=lease, optuna_trial=optuna_trial, number=optuna_trial.number, trial=number, rung=rung
    )


def bind(connection: Connection, lease: Lease, optuna_trial_id: int, number: int) -> int:
    """Tie an Optuna trial to its lease; returns the trial's number, which is that of its first attempt."""
    connection.execute(
        update(attempts)
        .where(attempts.c.lease_id == lease.lease_id)
        .values(optuna_trial_id=optuna_trial_id, number=number)
    )
    first: int = connection.execute(
        update(trials)
        .where(trials.c.trial_id == lease.trial_id)
        .values(last_optuna_trial_id=optuna_trial_id, number=func.coalesce(trials.c.number, number))
        .returning(trials.c.number)
    ).scalar_one()
    return first


def unbound(storage: Storage, lease: Lease) -> int | None:
    """Optuna's id of the trial that was made for a lease and not yet bound to it."""
    states = (TrialState.RUNNING, TrialState.FAIL)
    for trial in reversed(storage.optuna.get_all_trials(lease.study_id, deepcopy=False, states=states)):
        if trial.user_attrs.get(LEASE_ATTRIBUTE) == lease.lease_id:
            return trial_id_of(trial)
    return None


def _begun(storage: Storage, connection: Connection, study: optuna.Study, lease: Lease) -> int | None:
    """Go on with a trial that has values: those of its last attempt, or those it was enqueued with."""
    trial = connection.execute(
        select(trials.c.last_optuna_trial_id, trials.c.given).where(trials.c.trial_id == lease.trial_id)
    ).one()
    if trial.last_optuna_trial_id is not None:
        template = _template(connection, lease, storage.optuna.get_trial(trial.last_optuna_trial_id))
        if not is_enqueued(template):
            _take_turn(storage, connection, study, lease, template)
    elif trial.given is not None:
        template = _template(connection, lease)
        template.system_attrs[FIXED_PARAMS] = trial.given
    else:
        return None
    return storage.optuna.create_new_trial(lease.study_id, template)


def _enqueued(storage: Storage, connection: Connection, study: optuna.Study, lease: Lease) -> int | None:
    """Take the oldest trial that a script left with Optuna's ``enqueue_trial``."""
    waiting = storage.optuna.get_all_trials(lease.study_id, deepcopy=False, states=(TrialState.WAITING,))
    for trial in waiting:
        storage.optuna.set_trial_user_attr(trial_id_of(trial), LEASE_ATTRIBUTE, lease.lease_id)
        if storage.optuna.set_trial_state_values(trial_id_of(trial), TrialState.RUNNING):
            if isinstance(study.sampler, GridSampler):
                _make_room(connection, study, lease)
            return trial_id_of(trial)
    return None


def _make_room(connection: Connection, study: optuna.Study, lease: Lease) -> None:
    """Let a grid have as many trials as cells and what was enqueued, within the budget that a person gave."""
    limit = trial_limit(stored_study_file(study), study)
    connection.execute(
        update(studies).where(studies.c.study_id == lease.study_id).values(budget_trials=limit)
    )


def _template(connection: Connection, lease: Lease, predecessor: FrozenTrial | None = None) -> FrozenTrial:
    claimed_at = connection.execute(
        select(attempts.c.claimed_at).where(attempts.c.lease_id == lease.lease_id)
    ).scalar_one()
    attributes: dict[str, Any] = {LEASE_ATTRIBUTE: lease.lease_id}
    if predecessor is None:
        template = create_trial(state=TrialState.RUNNING, user_attrs=attributes)
    else:
        attributes[CONTINUES_ATTRIBUTE] = predecessor.number
        template = create_trial(
            state=TrialState.RUNNING,
            params=predecessor.params,
            distributions=predecessor.distributions,
            user_attrs=attributes,
            system_attrs=_inherited(predecessor),
        )
    # Optuna keeps naive local times; this one is at least the database's moment.
    template.datetime_start = claimed_at.astimezone().replace(tzinfo=None)
    return template


def _inherited(predecessor: FrozenTrial) -> dict[str, Any]:
    """What a successor's values are to a sampler: given, or still to be drawn in its predecessor's place.

    Whatever else stands there (rungs, constraints, artifact links) belongs to the attempt that was lost.
    """
    system = predecessor.system_attrs
    if CONFIG_HASH_ATTRIBUTE in predecessor.user_attrs:
        return {FIXED_PARAMS: predecessor.params}
    kept = {key: system[key] for key in (FIXED_PARAMS, STANDS_IN_FOR, TURN) if key in system}
    if FIXED_PARAMS not in kept:
        kept.setdefault(STANDS_IN_FOR, predecessor.number)
    return kept


def _take_turn(
    storage: Storage, connection: Connection, study: optuna.Study, lease: Lease, template: FrozenTrial
) -> None:
    """Give a trial that is to be drawn the first turn that no other has; called under the study's lock.

    An orphan, which arrived after its lease had ended and never runs, keeps none. An attempt that stands in
    for one that was lost goes on with the lost one's turn, unless that had come too late and another has it.
    """
    if not goes_through_a_list(study.sampler):
        return
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
        for trial in storage.optuna.get_all_trials(lease.study_id, deepcopy=False)
        if TURN in trial.system_attrs
        and (trial_id_of(trial) in bound or trial.user_attrs.get(LEASE_ATTRIBUTE) in unbound_leases)
    }
    kept = template.system_attrs.get(TURN)
    if kept is None or kept in taken:
        template.system_attrs[TURN] = next(turn for turn in itertools.count() if turn not in taken)
