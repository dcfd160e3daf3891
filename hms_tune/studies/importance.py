"""How much each parameter mattered."""

from __future__ import annotations

import logging
import warnings

from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import TrialState

from hms_tune.database.connect import Storage
from hms_tune.studies.lookup import load_study

_logger = logging.getLogger(__name__)


def importances(storage: Storage, name: str) -> dict[str, float]:
    """How much each parameter matters, by PED-ANOVA, the largest first; empty with too few trials."""
    study = load_study(storage, name)
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if len(complete) < 4:
        return {}
    try:
        with warnings.catch_warnings():
            # It warns of each conditional parameter that few trials have; that is what its share says, too.
            warnings.simplefilter("ignore", UserWarning)
            found = get_param_importances(study, evaluator=PedAnovaImportanceEvaluator())
    except (ValueError, RuntimeError) as error:  # all values alike, or no parameter in common
        _logger.debug("no importances: %s", error)
        return {}
    return {parameter: float(share) for parameter, share in found.items()}
