"""How an attempt's result is written, so that dying anywhere loses nothing.

Two stores are written: Optuna's tables through Optuna (which commits as it pleases) and ours in one
transaction. The order makes every interruption visible: a result is told to Optuna while the lease row is
locked, and the lease ends in that transaction. Dying in between leaves a finished Optuna trial under a live
lease, and recovery takes the result from it. A loser can write nothing: recovery ends its Optuna trial first,
and Optuna refuses to change a finished one. When the answer to the COMMIT was lost the result is told again,
and found by the lease that has ended with it.

How an attempt begins is in :mod:`~hms_tune.database.queue.start`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import optuna
from optuna.trial import FrozenTrial
from sqlalchemy import Connection, case, null, select, text, update
from sqlalchemy.dialects.postgresql import insert

from hms_tune.database.connect import Storage
from hms_tune.database.optuna_trial import (
    REASON_ATTRIBUTE,
    RUNG_ATTRIBUTE,
    STATE_ATTRIBUTE,
    attempt_state,
    optuna_state,
)
from hms_tune.database.queue.attempt import Attempt, Result
from hms_tune.database.queue.lease import Lease, is_lease, lease_lost, lock_lease
from hms_tune.database.tables import SCHEMA, attempt_records, attempts, now, trials
from hms_tune.errors import UnknownStudyError
from hms_tune.search.memory_constraint import CAUSE_ATTRIBUTE, mark_infeasible
from hms_tune.trial_state import AttemptState, TrialState

STOPPED_BY_A_PERSON = "stopped by a person"
"""The reason of a trial that ``study stop-trial`` ended."""

ENDED_IN_DASHBOARD = "ended by a person in the dashboard"
"""The reason of an attempt whose Optuna trial a person failed."""

DELETED = "deleted from the database"
"""The reason of a trial whose attempt is no more among Optuna's, while the study is."""

TRACEBACK = "traceback"
"""Key of a failed result's traceback."""


def end_attempt(
    storage: Storage, study: optuna.Study, attempt: Attempt, result: Result, *, rungs: Sequence[int] = ()
) -> Result:
    """Write how an attempt ended, if it is still ours. Safe to repeat after an outage.

    Parameters
    ----------
    rungs : the steps at which trials of the study pause

    Returns
    -------
    What was written. It differs from ``result`` when someone ended the Optuna trial before (the dashboard
    can): what stands there stays. One that somebody deleted has failed.

    Raises
    ------
    LeaseLostError
        If another worker has taken the trial; nothing is written.
    UnknownStudyError
        If the study was deleted.
    """
    with storage.transaction() as connection:
        told = _told(connection, attempt.lease)
        try:
            frozen = storage.optuna.get_trial(attempt.optuna_trial_id)
        except KeyError:
            result = result_of_deleted(storage, attempt.lease, study.study_name)
            if not told:
                end_lease_and_trial(connection, attempt.lease, result, set_aside=False)
            return result
        if told:
            return result_of(frozen)
        if frozen.state.is_finished():
            result = result_of(frozen)
        else:
            _tell_optuna(storage, study, attempt, result)
        keep_traceback(connection, attempt, result)
        end_lease_and_trial(connection, attempt.lease, result, set_aside=False, rungs=rungs)
    return result


def _told(connection: Connection, lease: Lease) -> bool:
    """Whether a lease ended with a result before; one that is held stays locked."""
    state = connection.execute(
        select(attempts.c.state).where(is_lease(lease)).with_for_update()
    ).scalar_one_or_none()
    if state in (None, AttemptState.LOST):
        raise lease_lost(lease)
    return state is not AttemptState.RUNNING


def keep_traceback(connection: Connection, attempt: Attempt, result: Result) -> None:
    """Write it to our own tables: the dashboard sends Optuna's attributes with every page."""
    told = result.attributes.get(TRACEBACK)
    if told is None:
        return
    row = {"study_id": attempt.lease.study_id, "number": attempt.number}
    connection.execute(
        insert(attempt_records)
        .values(**row, traceback=told)
        .on_conflict_do_update(index_elements=["study_id", "number"], set_={"traceback": told})
    )


def _tell_optuna(storage: Storage, study: optuna.Study, attempt: Attempt, result: Result) -> None:
    attributes = dict(result.attributes) | {STATE_ATTRIBUTE: result.state.value}
    if result.reason is not None:
        attributes[REASON_ATTRIBUTE] = result.reason
    if result.rung is not None:
        attributes[RUNG_ATTRIBUTE] = list(result.rung)
    attributes.pop(TRACEBACK, None)
    storage.optuna.set_trial_user_attrs(attempt.optuna_trial_id, attributes)
    if result.excess > 0.0:
        mark_infeasible(attempt.optuna_trial, result.excess)
    study.tell(attempt.optuna_trial, result.value, state=optuna_state(result.state))


def result_of(frozen: FrozenTrial) -> Result:
    """How a finished Optuna trial ended, read from the trial itself."""
    state, reason = attempt_state(frozen), frozen.user_attrs.get(REASON_ATTRIBUTE)
    step_and_estimate = frozen.user_attrs.get(RUNG_ATTRIBUTE)
    rung = None if step_and_estimate is None else (step_and_estimate[0], step_and_estimate[1])
    if state is AttemptState.COMPLETE:
        return Result(state, value=frozen.value, rung=rung)
    if state is AttemptState.FAILED and reason is None:
        reason = ENDED_IN_DASHBOARD
    return Result(state, reason=reason, rung=rung)


def result_of_deleted(storage: Storage, lease: Lease, study: str) -> Result:
    """What becomes of an attempt whose Optuna trial is not there any more.

    Raises
    ------
    UnknownStudyError
        If its whole study was deleted.
    """
    try:
        storage.optuna.get_study_name_from_id(lease.study_id)
    except KeyError:
        raise UnknownStudyError("the study was deleted", where=study) from None
    return Result(AttemptState.FAILED, reason=DELETED, attributes={CAUSE_ATTRIBUTE: "person"})


def end_lease_and_trial(
    connection: Connection,
    lease: Lease,
    result: Result,
    *,
    set_aside: bool,
    losses: int | None = None,
    rungs: Sequence[int] = (),
) -> None:
    """End a lease in our tables, and its trial unless it goes on.

    Parameters
    ----------
    losses : how many workers the trial has lost now without getting further; None: one more than before
    rungs : the steps at which trials of the study pause
    """
    end_lease(connection, lease, result.state)
    values: dict[str, Any] = (
        columns_of_ended(TrialState.FAILED if set_aside else result.state.trial_state_after, result.reason)
        if set_aside or result.state.trial_state_after.is_final
        else columns_of_waiting_or_stopped(result.state.trial_state_after)
    )
    if result.rung is not None:
        step, estimate = result.rung
        steps = sorted({step, *(each for each in rungs if each < step)})
        place = {"study": lease.study_id, "trial": lease.trial_id}
        connection.execute(_REACHED, place | {"step": step, "steps": steps, "estimate": estimate})
        values |= {"rung": step, "estimate": estimate}
    if result.value is not None:
        values["estimate"] = result.value
    if result.state is AttemptState.LOST:
        values["losses"] = trials.c.losses + 1 if losses is None else losses
    connection.execute(
        update(trials)
        .where(trials.c.trial_id == lease.trial_id, trials.c.state == TrialState.RUNNING)
        .values(**values)
    )


def end_lease(connection: Connection, lease: Lease, state: AttemptState) -> None:
    """End a lease, whatever becomes of its trial."""
    connection.execute(update(attempts).where(is_lease(lease)).values(ended_at=now(), state=state))


# A rung passed without a pause gets the estimate of the rung before it or, if there is none, the current one.
_REACHED = text(f"""
    INSERT INTO {SCHEMA}.rungs (trial_id, study_id, step, estimate)
    SELECT :trial, :study, each, CASE WHEN each = :step THEN :estimate ELSE coalesce((
        SELECT estimate FROM {SCHEMA}.rungs WHERE trial_id = :trial AND step < each
        ORDER BY step DESC LIMIT 1
    ), :estimate) END
    FROM unnest(CAST(:steps AS integer[])) AS each
    ON CONFLICT DO NOTHING
""")


def columns_of_ended(state: TrialState, reason: str | None) -> dict[str, Any]:
    """What stands in the row of a trial that is over."""
    return {"state": state, "ended_at": now(), "reason": reason}


def columns_of_waiting_or_stopped(state: TrialState) -> dict[str, Any]:
    """What stands in the row of a trial without a slot: its state, unless a person stopped it."""
    stopped = columns_of_ended(TrialState.FAILED, STOPPED_BY_A_PERSON)
    goes_on = {"state": state, "ended_at": null(), "reason": null()}
    return {
        column: case((trials.c.requested == "stop", stopped[column]), else_=goes_on[column])
        for column in stopped
    }


def release(storage: Storage, lease: Lease) -> None:
    """Give back a claim for which no Optuna trial was made."""
    with storage.transaction() as connection:
        lock_lease(connection, lease)
        end_lease_and_trial(connection, lease, Result(AttemptState.REQUEUED), set_aside=False)
