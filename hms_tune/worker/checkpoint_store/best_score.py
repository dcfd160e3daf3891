"""The corrected score of a study's best trial, by what the fleet keeps of the leading trials."""

from __future__ import annotations

import logging

from hms_tune.database.connect import Storage
from hms_tune.database.queries.totals import best_trial_numbers
from hms_tune.errors import ArtifactError
from hms_tune.studies.score import write_corrected
from hms_tune.training.events import EpochScores
from hms_tune.training.optimism.correction import MOST_CANDIDATES, corrected
from hms_tune.worker.checkpoint_store.predictions import KeptPredictions

_logger = logging.getLogger(__name__)


class BestScore:
    """Keeps a study's corrected score up to date; of each trial it reads what is kept once.

    Parameters
    ----------
    study_id : Optuna's id of the study
    kept : the predictions of its trials
    """

    def __init__(self, storage: Storage, study_id: int, kept: KeptPredictions) -> None:
        self._storage = storage
        self._study_id = study_id
        self._kept = kept
        self._read: dict[int, EpochScores | None] = {}

    def update(self) -> None:
        """Work it out again after a trial has completed, and store it; what cannot be read is left out."""
        with self._storage.statements() as connection:
            leading = best_trial_numbers(connection, self._study_id, most=MOST_CANDIDATES)
        try:
            there = self._kept.trials()
            self._read = {trial: self._epochs(trial) for trial in leading if trial in there}
        except ArtifactError as error:
            _logger.warning("The best score of %s is not corrected now: %s", self._kept.study, error)
            return
        known = [epochs for epochs in self._read.values() if epochs is not None]
        if not leading or self._read.get(leading[0]) is None:
            return
        found = corrected([[epochs] for epochs in known])
        if found is not None:
            write_corrected(self._storage, self._study_id, leading[0], found)

    def _epochs(self, trial: int) -> EpochScores | None:
        return self._read[trial] if trial in self._read else self._kept.of(trial).epochs
