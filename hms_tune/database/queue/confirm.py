"""Work that confirms a study: whole configurations that wait for a slot, and those that need not be run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sqlalchemy import func, select, update
from sqlalchemy.dialects.postgresql import insert

from hms_tune.database.connect import Storage
from hms_tune.database.locks import lock_study
from hms_tune.database.queries.data_sets import agree_on_data, data_of_study
from hms_tune.database.queue.end import columns_of_ended
from hms_tune.database.tables import confirmations, studies, trials
from hms_tune.trial_state import TrialState

Params = Mapping[str, Any]

DROPPED = "dropped: worse than the leader over the same patients"
"""The reason of a run that was not made."""


def enqueue_confirmation(
    storage: Storage,
    study_id: int,
    searched: tuple[int, str],
    candidates: Mapping[int, Params],
    runs: Sequence[Params],
) -> int:
    """Let runs wait for a slot, without those that are there already; returns how many were added.

    All of it is one transaction: no worker finds the study with a part of its runs. The budget is as many as
    there are, so that no slot ever draws a configuration of its own.

    Parameters
    ----------
    study_id : the confirming study, which is known to the fleet
    searched : Optuna's id and the name of the study whose trials are confirmed
    candidates : parameters of each by its trial's number
    runs : values of each run, in the order in which they are to begin
    """
    searched_id, name = searched
    listed = [{"trial": trial, "params": dict(params)} for trial, params in candidates.items()]
    with storage.transaction() as connection:
        lock_study(connection, study_id)
        row = insert(confirmations).values(study_id=study_id, confirms=name, candidates=listed)
        connection.execute(
            row.on_conflict_do_update(
                index_elements=[confirmations.c.study_id], set_={"candidates": row.excluded.candidates}
            )
        )
        if (data := data_of_study(connection, searched_id)) is not None:
            agree_on_data(connection, study_id, name, data)
        of_study = trials.c.study_id == study_id
        known = connection.execute(select(trials.c.given).where(of_study)).scalars().all()
        fresh = [dict(run) for run in runs if run not in known]
        if fresh:
            rows = [{"study_id": study_id, "state": TrialState.WAITING, "given": run} for run in fresh]
            connection.execute(trials.insert(), rows)
        number = select(func.count()).select_from(trials).where(of_study).scalar_subquery()
        connection.execute(update(studies).where(studies.c.study_id == study_id).values(budget_trials=number))
    return len(fresh)


def drop_runs(storage: Storage, study_id: int, needless: Callable[[Params], bool]) -> int:
    """End runs that no slot has begun, of candidates that are out of the race; returns how many."""
    unbegun = (
        trials.c.study_id == study_id,
        trials.c.state == TrialState.WAITING,
        trials.c.number.is_(None),
        trials.c.given.is_not(None),
    )
    with storage.transaction() as connection:
        waiting = connection.execute(select(trials.c.trial_id, trials.c.given).where(*unbegun)).all()
        dropped = [row.trial_id for row in waiting if needless(row.given)]
        if not dropped:
            return 0
        # One that a slot has claimed meanwhile is no longer among those that wait.
        statement = update(trials).where(*unbegun, trials.c.trial_id.in_(dropped))
        return connection.execute(statement.values(**columns_of_ended(TrialState.PRUNED, DROPPED))).rowcount
