"""How much each parameter mattered."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Collection, Container

import optuna
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import FrozenTrial, TrialState

from hms_tune.database.connect import Storage
from hms_tune.database.ended_trials import ended_trials
from hms_tune.search.optuna_private import study_id_of
from hms_tune.studies.lookup import load_study

_logger = logging.getLogger(__name__)

_FEWEST = 4


class _Some(optuna.Study):
    """Some of the trials of a study.

    Parameters
    ----------
    trials : complete ones
    """

    def __init__(self, study: optuna.Study, storage: Storage, trials: list[FrozenTrial]) -> None:
        super().__init__(study_name=study.study_name, storage=storage.optuna.shared)
        self._some = trials

    def get_trials(
        self, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        """All of these."""
        return self._some


def importances(storage: Storage, name: str, complete: Collection[int]) -> dict[str, float]:
    """How much each parameter matters, by PED-ANOVA, the largest first; empty with too few trials.

    Parameters
    ----------
    complete : Optuna's ids of complete trials of the study; no others are read
    """
    if len(complete) < _FEWEST:
        return {}
    study = load_study(storage, name)
    with storage.transaction() as connection:
        trials = ended_trials(connection, study_id_of(study), among=complete)
        try:
            with warnings.catch_warnings():
                # Of each conditional parameter that few trials have; that is what its share says, too.
                warnings.simplefilter("ignore", UserWarning)
                found = get_param_importances(
                    _Some(study, storage, trials), evaluator=PedAnovaImportanceEvaluator()
                )
        except (ValueError, RuntimeError) as error:  # all values alike, or no parameter in common
            _logger.debug("no importances: %s", error)
            return {}
    return {parameter: float(share) for parameter, share in found.items()}
