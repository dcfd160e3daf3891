"""Values that a person wants to be tried next.

They are a trial that waits for a slot, in the product's own tables: a unit of the budget is theirs from now
on, the next claim takes them like any other trial that waits, and no claim takes what another has. Optuna's
``enqueue_trial`` would leave them to whoever asks first, and outside of the budget.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import optuna
from sqlalchemy import func, select

from hms_tune.database.connect import Storage
from hms_tune.database.queue.claim import trials_claimed
from hms_tune.database.tables import lineages, studies
from hms_tune.errors import UnknownStudyError, UsageError
from hms_tune.search.study import stored_study_file
from hms_tune.search.suggest import params_from_config
from hms_tune.studies.status import find_study


def enqueue(storage: Storage, name: str, params: Mapping[str, str]) -> tuple[dict[str, Any], int]:
    """Leave values for the next free slot to try; what is not given is drawn by the sampler.

    Parameters
    ----------
    params : parameter names and values as a person typed them, for example ``{"model.dropout": "0.1"}``

    Returns
    -------
    The values as they will be tried, with the choices that lead to them, and how many trials wait before them

    Raises
    ------
    UnknownStudyError
        If there is no such study, or no worker ever joined it.
    ConfigError
        If a parameter is unknown, or a value is outside its range.
    UsageError
        If the budget has no trial left, or the study is a grid, which tries everything once already.
    """
    study_id = find_study(storage, name)
    study_file = stored_study_file(optuna.load_study(study_name=name, storage=storage.optuna))
    where = f"study {name}"
    if study_file.search.sampler == "grid":
        raise UsageError(
            "a grid tries each of its cells once; what is enqueued would take the place of one", where=where
        )
    values = params_from_config(study_file.space, params)
    with storage.transaction() as connection:
        # The lock of the claims: of the last unit, a claim or this gets it.
        study = connection.execute(
            select(studies.c.budget_trials).where(studies.c.study_id == study_id).with_for_update()
        ).one_or_none()
        if study is None:
            raise UnknownStudyError("no worker has joined this study yet", where=name)
        if study.budget_trials is not None and trials_claimed(connection, study_id) >= study.budget_trials:
            raise UsageError(
                f"all {study.budget_trials} trials of the budget are taken",
                where=where,
                mend="Raise budget.trials in the study file, and start a worker with it",
            )
        before: int = connection.execute(
            select(func.count())
            .select_from(lineages)
            .where(lineages.c.study_id == study_id, lineages.c.state == "waiting")
        ).scalar_one()
        connection.execute(lineages.insert().values(study_id=study_id, state="waiting", given=values))
    return values, before
