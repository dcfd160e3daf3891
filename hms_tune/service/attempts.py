"""From a claim to an Optuna trial, and from a result back to Optuna, so that dying anywhere loses nothing.

Two stores are written: Optuna's tables through Optuna (which commits as it pleases) and ours in one
transaction. The order makes every interruption visible:

* An attempt carries its lease's id as a user attribute from the moment it exists, before it is bound to the
  lease. A worker that dies in between leaves a RUNNING trial that :mod:`recovery` finds by that attribute.
* A result is told to Optuna while the lease row is locked, and the lease ends in that transaction. Dying in
  between leaves a finished Optuna trial under a live lease, and recovery takes the result from it. A loser
  can write nothing: recovery ends its Optuna trial first, and Optuna refuses to change a finished one.
* Either may be repeated. When the answer to a COMMIT was lost, the trial is found by its attribute, and a
  result by the lease that has ended with it.

A successor is created with the values of its predecessor in place (``create_new_trial`` with a template), not
by ``enqueue_trial``: an enqueued trial is popped by whoever asks next, passes through WAITING, and keeps
its values only as ``fixed_params``. The lineage row, claimed under the study's row lock, names the one worker
that continues it. ``study enqueue`` goes the same way: it leaves a lineage with the values given, which a
claim takes as it takes any other that waits.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import optuna
from optuna.trial import FrozenTrial, TrialState, create_trial
from sqlalchemy import Connection, case, func, null, select, update
from sqlalchemy.dialects.postgresql import insert

from hms_tune.errors import UnknownStudyError
from hms_tune.search.feasibility import is_declined, mark_infeasible
from hms_tune.search.turns import FIXED_PARAMS, STANDS_IN_FOR
from hms_tune.service.leases import Lease, hold
from hms_tune.service.storage import Storage
from hms_tune.service.tables import leases, lineages, now, trial_records

Ending = Literal["complete", "pruned", "failed", "declined", "handed_back", "lost"]
"""``declined``: the device has no room for what was drawn, and another draw takes its place."""

LEASE_ATTRIBUTE = "lease"
LINEAGE_ATTRIBUTE = "lineage"
ENDING_ATTRIBUTE = "ended"
REASON_ATTRIBUTE = "reason"
CONTINUES_ATTRIBUTE = "continues"

STOPPED_BY_A_PERSON = "stopped by a person"
"""The reason of a trial that ``study stop-trial`` ended."""

TRACEBACK = "traceback"
"""Key of a failed result's traceback."""

CONFIG_HASH_ATTRIBUTE = "config_hash"
"""Present once every parameter of the attempt is drawn."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """An Optuna trial that this process may run."""

    lease: Lease
    trial: optuna.Trial
    number: int
    lineage: int
    """Number of the trial's first attempt."""

    @property
    def trial_id(self) -> int:
        """Optuna's id of the attempt."""
        return int(self.trial._trial_id)


@dataclass(frozen=True, slots=True)
class Result:
    """How an attempt ended.

    ``reason`` is one line; ``attributes`` become Optuna user attributes. ``excess`` is by what share it
    needed more memory than there is; 0 where that is not why it ended.
    """

    ending: Ending
    value: float | None = None
    reason: str | None = None
    attributes: Mapping[str, Any] = field(default_factory=dict)
    excess: float = 0.0

    def __post_init__(self) -> None:
        if (self.ending == "complete") != (self.value is not None):
            raise ValueError("a complete trial has a value, and no other has one")
        if self.value is not None and not math.isfinite(self.value):
            raise ValueError(f"a complete trial has a finite value, not {self.value}")


def ask(storage: Storage, study: optuna.Study, lease: Lease, *, again: bool = False) -> Attempt:
    """Make the Optuna trial of a claimed lease.

    That is the continuation of the lineage's last attempt, or the values it was enqueued with; else a
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
            trial_id = unbound(storage, lease) if again else None
            if trial_id is None:
                trial_id = _begun(storage, connection, lease)
            if trial_id is None:
                trial_id = _enqueued(storage, lease)
            if trial_id is None:
                trial_id = storage.optuna.create_new_trial(lease.study_id, _template(connection, lease))
            # Optuna's cache knows trials that went through it alone; this shows it the new one.
            study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
            trial = optuna.Trial(study, trial_id)
        except KeyError:
            raise UnknownStudyError("the study was deleted", where=study.study_name) from None
        lineage = bind(connection, lease, trial_id, trial.number)
        trial.set_user_attr(LINEAGE_ATTRIBUTE, lineage)
    return Attempt(lease=lease, trial=trial, number=trial.number, lineage=lineage)


def bind(connection: Connection, lease: Lease, trial_id: int, number: int) -> int:
    """Tie an Optuna trial to its lease; returns the number of the lineage's first attempt."""
    connection.execute(
        update(leases).where(leases.c.lease_id == lease.lease_id).values(trial_id=trial_id, number=number)
    )
    first: int = connection.execute(
        update(lineages)
        .where(lineages.c.lineage_id == lease.lineage_id)
        .values(last_trial_id=trial_id, first_number=func.coalesce(lineages.c.first_number, number))
        .returning(lineages.c.first_number)
    ).scalar_one()
    return first


def unbound(storage: Storage, lease: Lease) -> int | None:
    """Optuna's id of the trial that was made for a lease and not yet bound to it."""
    states = (TrialState.RUNNING, TrialState.FAIL)
    for trial in reversed(storage.optuna.get_all_trials(lease.study_id, deepcopy=False, states=states)):
        if trial.user_attrs.get(LEASE_ATTRIBUTE) == lease.lease_id:
            return int(trial._trial_id)
    return None


def _begun(storage: Storage, connection: Connection, lease: Lease) -> int | None:
    """Go on with a lineage that has values: those of its last attempt, or those it was enqueued with."""
    lineage = connection.execute(
        select(lineages.c.last_trial_id, lineages.c.given).where(lineages.c.lineage_id == lease.lineage_id)
    ).one()
    if lineage.last_trial_id is not None:
        template = _template(connection, lease, storage.optuna.get_trial(lineage.last_trial_id))
    elif lineage.given is not None:
        template = _template(connection, lease)
        template.system_attrs[FIXED_PARAMS] = lineage.given
    else:
        return None
    return storage.optuna.create_new_trial(lease.study_id, template)


def _enqueued(storage: Storage, lease: Lease) -> int | None:
    """Take the oldest trial that a script left with Optuna's ``enqueue_trial``."""
    waiting = storage.optuna.get_all_trials(lease.study_id, deepcopy=False, states=(TrialState.WAITING,))
    for trial in waiting:
        storage.optuna.set_trial_user_attr(trial._trial_id, LEASE_ATTRIBUTE, lease.lease_id)
        if storage.optuna.set_trial_state_values(trial._trial_id, TrialState.RUNNING):
            return int(trial._trial_id)
    return None


def _template(connection: Connection, lease: Lease, predecessor: FrozenTrial | None = None) -> FrozenTrial:
    claimed_at = connection.execute(
        select(leases.c.claimed_at).where(leases.c.lease_id == lease.lease_id)
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
    kept = {key: system[key] for key in (FIXED_PARAMS, STANDS_IN_FOR) if key in system}
    return kept or {STANDS_IN_FOR: predecessor.number}


def tell(storage: Storage, study: optuna.Study, attempt: Attempt, result: Result) -> Result:
    """Write how an attempt ended, if it is still ours. Safe to repeat after an outage.

    Returns
    -------
    What was written. It differs from ``result`` when someone ended the Optuna trial before (the dashboard
    can): what stands there stays.

    Raises
    ------
    LeaseLostError
        If another worker has taken the trial; nothing is written.
    UnknownStudyError
        If the study was deleted.
    """
    with storage.transaction() as connection:
        told = _told(connection, attempt.lease)
        if not told:
            hold(connection, attempt.lease)
        try:
            frozen = storage.optuna.get_trial(attempt.trial_id)
        except KeyError:
            raise UnknownStudyError("the study was deleted", where=study.study_name) from None
        if told:
            return result_of(frozen)
        if frozen.state.is_finished():
            result = result_of(frozen)
        else:
            _tell_optuna(storage, study, attempt, result)
        keep_traceback(connection, attempt, result)
        settle(connection, attempt.lease, result, set_aside=False)
    return result


def _told(connection: Connection, lease: Lease) -> bool:
    """Whether a lease ended with a result, not with a loss."""
    outcome = connection.execute(
        select(leases.c.outcome).where(leases.c.lease_id == lease.lease_id)
    ).scalar_one_or_none()
    return outcome is not None and outcome != "lost"


def keep_traceback(connection: Connection, attempt: Attempt, result: Result) -> None:
    """Write it to our own tables: the dashboard sends Optuna's attributes with every page."""
    told = result.attributes.get(TRACEBACK)
    if told is None:
        return
    row = {"study_id": attempt.lease.study_id, "number": attempt.number, "lineage": attempt.lineage}
    connection.execute(
        insert(trial_records)
        .values(**row, traceback=told)
        .on_conflict_do_update(index_elements=["study_id", "number"], set_={"traceback": told})
    )


def _tell_optuna(storage: Storage, study: optuna.Study, attempt: Attempt, result: Result) -> None:
    attributes = dict(result.attributes) | {ENDING_ATTRIBUTE: result.ending}
    if result.reason is not None:
        attributes[REASON_ATTRIBUTE] = result.reason
    attributes.pop(TRACEBACK, None)
    for key, value in attributes.items():
        storage.optuna.set_trial_user_attr(attempt.trial_id, key, value)
    if result.excess > 0.0:
        mark_infeasible(attempt.trial, result.excess)
    # Samplers hear nothing of failed trials; of pruned ones that violate a constraint they do.
    states = {
        "complete": TrialState.COMPLETE,
        "pruned": TrialState.PRUNED,
        "declined": TrialState.PRUNED,
    }
    state = states.get(result.ending, TrialState.FAIL)
    study.tell(attempt.trial, result.value, state=state)


def result_of(frozen: FrozenTrial) -> Result:
    """How a finished Optuna trial ended, read from the trial itself."""
    reason = frozen.user_attrs.get(REASON_ATTRIBUTE)
    if frozen.state == TrialState.COMPLETE:
        return Result("complete", value=frozen.value)
    if frozen.state == TrialState.PRUNED:
        return Result("declined" if is_declined(frozen) else "pruned", reason=reason)
    ending = frozen.user_attrs.get(ENDING_ATTRIBUTE)
    if ending in ("handed_back", "lost"):
        return Result(ending, reason=reason)
    return Result("failed", reason=reason or "ended by a person in the dashboard")


def settle(
    connection: Connection, lease: Lease, result: Result, *, set_aside: bool, losses: int | None = None
) -> None:
    """End a lease in our tables, and its lineage unless it goes on.

    Parameters
    ----------
    losses : how many workers the trial has lost now without getting further; None: one more than before
    """
    connection.execute(
        update(leases)
        .where(leases.c.lease_id == lease.lease_id)
        .values(ended_at=now(), outcome=result.ending)
    )
    unfinished = result.ending in ("handed_back", "lost")
    values: dict[str, Any] = (
        waits_unless_stopped()
        if unfinished and not set_aside
        else ended("failed" if unfinished else result.ending, result.reason)
    )
    if result.ending == "lost":
        values["losses"] = lineages.c.losses + 1 if losses is None else losses
    connection.execute(update(lineages).where(lineages.c.lineage_id == lease.lineage_id).values(**values))


def ended(outcome: str, reason: str | None) -> dict[str, Any]:
    """What stands in the row of a lineage that is over."""
    return {"state": "ended", "ended_at": now(), "outcome": outcome, "reason": reason}


def waits_unless_stopped() -> dict[str, Any]:
    """What stands in the row of a lineage without a slot: it waits for one, unless a person stopped it."""
    stopped = ended("failed", STOPPED_BY_A_PERSON)
    going_on = {"state": "waiting", "ended_at": null(), "outcome": null(), "reason": null()}
    return {
        column: case((lineages.c.wanted == "stop", stopped[column]), else_=going_on[column])
        for column in stopped
    }


def release(storage: Storage, lease: Lease) -> None:
    """Give back a claim for which no Optuna trial was made."""
    with storage.transaction() as connection:
        hold(connection, lease)
        settle(connection, lease, Result("handed_back"), set_aside=False)
