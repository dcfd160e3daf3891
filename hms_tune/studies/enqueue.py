"""Values that a person wants to be tried next.

They become a trial that waits for a slot, in the product's own tables. It takes a unit of the budget now, and
the next claim takes it as any other trial that waits. Optuna's ``enqueue_trial`` would add it outside of the
budget, and two workers could take it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hms_tune.database.connect import Storage
from hms_tune.database.queue.requests import enqueue_trial
from hms_tune.errors import UsageError
from hms_tune.search.study import stored_study_file
from hms_tune.search.suggest import params_from_config
from hms_tune.studies.lookup import find_study, load_study


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
    study_file = stored_study_file(load_study(storage, name))
    if study_file.search.sampler == "grid":
        raise UsageError(
            "a grid tries each of its cells once; what is enqueued would take the place of one",
            where=f"study {name}",
        )
    values = params_from_config(study_file.space, params)
    return values, enqueue_trial(storage, find_study(storage, name), values)
