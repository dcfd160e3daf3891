"""What an attempt is, how it ended, and how that is told, so that dying anywhere loses nothing.

Two stores are written: Optuna's tables through Optuna (which commits as it pleases) and ours in one
transaction. The order makes every interruption visible: a result is told to Optuna while the lease row is
locked, and the lease ends in that transaction. Dying in between leaves a finished Optuna trial under a live
lease, and recovery takes the result from it. A loser can write nothing: recovery ends its Optuna trial first,
and Optuna refuses to change a finished one. When the answer to the COMMIT was lost the result is told again,
and found by the lease that has ended with it.

How an attempt begins is in :mod:`asking`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import optuna
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import Connection, case, null, select, update
from sqlalchemy.dialects.postgresql import insert

from hms_tune.database.connect import Storage
from hms_tune.database.queue.lease import Lease, hold
from hms_tune.database.tables import leases, lineages, now, trial_records
from hms_tune.errors import UnknownStudyError
from hms_tune.search.memory_constraint import is_declined, mark_infeasible

Ending = Literal["complete", "pruned", "failed", "declined", "handed_back", "lost"]
"""``declined``: the device has no room for what was drawn, and another draw takes its place."""

LEASE_ATTRIBUTE = "lease"
LINEAGE_ATTRIBUTE = "lineage"
ENDING_ATTRIBUTE = "ended"
REASON_ATTRIBUTE = "reason"

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
    storage.optuna.set_trial_user_attrs(attempt.trial_id, attributes)
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
