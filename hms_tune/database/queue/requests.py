"""What people request of a study, its trials and its workers: written here, seen by slots at their events."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import case, func, select, update

from hms_tune.database.connect import Storage
from hms_tune.database.locks import lock_study
from hms_tune.database.queries.studies import RequestedState
from hms_tune.database.queue.end import STOPPED_BY_A_PERSON, columns_of_ended
from hms_tune.database.queue.usage import trials_claimed
from hms_tune.database.tables import attempts, studies, trials, workers
from hms_tune.errors import UnknownStudyError, UsageError
from hms_tune.trial_state import TrialState


@dataclass(frozen=True, slots=True)
class StopAnswer:
    """What became of a request to stop a trial.

    ``stopping``: a slot is at it; ``stopped``: it waited for a slot, and has ended; ``ended``: it had ended
    before, as ``state``; ``unknown``: there is no such trial.
    """

    kind: Literal["stopping", "stopped", "ended", "unknown"]
    state: TrialState | None = None


def request_study_state(storage: Storage, study_id: int, state: RequestedState) -> None:
    """Write what people want of a study.

    Raises
    ------
    UnknownStudyError
        If no worker has joined it yet.
    """
    with storage.transaction() as connection:
        statement = update(studies).where(studies.c.study_id == study_id).values(state=state)
        if connection.execute(statement).rowcount == 0:
            raise _nobody_joined(storage, study_id)


def request_trial_stop(storage: Storage, study_id: int, number: int) -> StopAnswer:
    """Write that a trial is to be stopped; one that waits for a slot ends at once.

    Parameters
    ----------
    number : number of any of the trial's attempts
    """
    of_attempt = (
        select(attempts.c.trial_id)
        .where(attempts.c.study_id == study_id, attempts.c.number == number)
        .scalar_subquery()
    )
    # One statement: whether a slot takes the trial or gives it back meanwhile, one of both sees the other.
    stopped = {
        column: case(
            (trials.c.state.in_([TrialState.WAITING, TrialState.PAUSED]), value), else_=trials.c[column]
        )
        for column, value in columns_of_ended(TrialState.FAILED, STOPPED_BY_A_PERSON).items()
    }
    with storage.transaction() as connection:
        state = connection.execute(
            update(trials)
            .where(trials.c.trial_id == of_attempt, trials.c.ended_at.is_(None))
            .values(requested="stop", **stopped)
            .returning(trials.c.state)
        ).scalar_one_or_none()
        if state is not None:
            return StopAnswer("stopped" if state.is_final else "stopping")
        state = connection.execute(
            select(trials.c.state).where(trials.c.trial_id == of_attempt)
        ).scalar_one_or_none()
    return StopAnswer("unknown") if state is None else StopAnswer("ended", state)


def request_workers_leave(
    storage: Storage, study_id: int, worker_ids: Collection[str], *, at_once: bool
) -> None:
    """Write that workers are to leave: at once, or when their trials have ended."""
    statement = update(workers).where(
        workers.c.study_id == study_id, workers.c.worker_id.in_(list(worker_ids))
    )
    with storage.transaction() as connection:
        connection.execute(statement.values(requested="leave" if at_once else "finish"))


def enqueue_trial(storage: Storage, study_id: int, values: Mapping[str, Any]) -> int:
    """Add a trial with these values to those that wait, within the budget; returns how many wait before it.

    Raises
    ------
    UnknownStudyError
        If no worker has joined the study yet.
    UsageError
        If the budget has no trial left.
    """
    with storage.transaction() as connection:
        # The lock of the claims: of the last unit, a claim or this gets it.
        study = connection.execute(
            select(studies.c.budget_trials)
            .where(studies.c.study_id == study_id)
            .with_for_update(key_share=True)
        ).one_or_none()
        if study is None:
            raise _nobody_joined(storage, study_id)
        if study.budget_trials is not None and trials_claimed(connection, study_id) >= study.budget_trials:
            raise UsageError(
                f"all {study.budget_trials} trials of the budget are taken",
                where=f"study {storage.optuna.get_study_name_from_id(study_id)}",
                hint="Raise budget.trials in the study file, and start a worker with it",
            )
        before = connection.execute(
            select(func.count())
            .select_from(trials)
            .where(trials.c.study_id == study_id, trials.c.state == TrialState.WAITING)
        ).scalar_one()
        connection.execute(
            trials.insert().values(study_id=study_id, state=TrialState.WAITING, given=dict(values))
        )
    return before


def _nobody_joined(storage: Storage, study_id: int) -> UnknownStudyError:
    name = storage.optuna.get_study_name_from_id(study_id)
    return UnknownStudyError("no worker has joined this study yet", where=name)


def replace_enqueued(
    storage: Storage,
    study_id: int,
    start: Sequence[Mapping[str, Any]],
    *,
    fits: Callable[[Mapping[str, Any]], bool],
) -> None:
    """Of the values that wait for a slot and never had one, keep those that fit; enqueue others beside them.

    Parameters
    ----------
    start : values to enqueue, unless they wait already
    fits : whether values are still to be tried
    """
    with storage.transaction() as connection:
        lock_study(connection, study_id)
        untouched = (
            trials.c.study_id == study_id,
            trials.c.state == TrialState.WAITING,
            trials.c.given.is_not(None),
            trials.c.last_optuna_trial_id.is_(None),
        )
        waiting = connection.execute(select(trials.c.trial_id, trials.c.given).where(*untouched)).all()
        kept = [row.given for row in waiting if fits(row.given)]
        unfit = [row.trial_id for row in waiting if row.given not in kept]
        connection.execute(trials.delete().where(trials.c.trial_id.in_(unfit), *untouched))
        rows = [
            {"study_id": study_id, "state": TrialState.WAITING, "given": dict(values)}
            for values in start
            if dict(values) not in kept
        ]
        if rows:
            connection.execute(trials.insert(), rows)
