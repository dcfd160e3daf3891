"""The race between candidates of a confirmation, judged by the predictions that the fleet keeps."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from hms_tune.config.ranges import Fixed, Group
from hms_tune.config.study_file import StudyFile
from hms_tune.database.connect import Storage
from hms_tune.database.queries.confirmations import as_confirmation, write_ranking
from hms_tune.database.queue.confirm import drop_runs
from hms_tune.errors import ArtifactError
from hms_tune.export.confirmation.race import Ranking, RowScores, rank
from hms_tune.studies.trial_record import study_record
from hms_tune.worker.checkpoint_store.files import ObjectStore
from hms_tune.worker.checkpoint_store.predictions import KeptPredictions
from hms_tune.worker.confirmation.request import SEED, without_seed

_logger = logging.getLogger(__name__)


class RaceJudge:
    """Ranks the candidates of a confirming study, and drops what need not be run.

    Parameters
    ----------
    study_id, study_file : the confirming study
    store : where its predictions, and those of the study that was searched, are kept
    """

    def __init__(self, storage: Storage, study_id: int, study_file: StudyFile, store: ObjectStore) -> None:
        self._storage = storage
        self._study_id = study_id
        self._study = study_file.study
        self._store = store
        data = study_file.space.entries["data"]
        self._all_rows = isinstance(data, Group) and data.entries["judged_on"] == Fixed("all_rows")
        self._read: dict[tuple[str, int], RowScores] = {}
        self._ranked: tuple[object, Ranking] | None = None

    def judge(self) -> Ranking | None:
        """Rank, store the ranking, and end the runs of dropped candidates; None: nothing is known yet.

        Predictions that cannot be read are left out, and said once each time.
        """
        with self._storage.transaction() as connection:
            known = as_confirmation(connection, self._study_id)
        if known is None:
            return None
        searched = {trial.trial: trial.value for trial in study_record(self._storage, known.confirms).ranked}
        search = {trial: searched[trial] or 0.0 for trial in searched if trial in known.candidates}
        runs: dict[int, dict[int, RowScores]] = {trial: {} for trial in search}
        try:
            kept = KeptPredictions(self._store, self._study)
            there = kept.trials()
            for run in study_record(self._storage, self._study).ranked:
                params = without_seed(run.params)
                trial = next((each for each in search if known.candidates[each] == params), None)
                if trial is not None and run.trial in there:
                    runs[trial][int(run.params[SEED])] = self._scores(kept, run.trial)
            earlier = KeptPredictions(self._store, known.confirms)
            kept_earlier = earlier.trials()
            before = {trial: self._scores(earlier, trial) for trial in search if trial in kept_earlier}
        except ArtifactError as error:
            _logger.warning("The candidates cannot be compared now: %s", error)
            return None
        if not any(runs.values()):
            return None
        ranking = self._rank(search, runs, before)
        with self._storage.transaction() as connection:
            write_ranking(connection, self._study_id, ranking.as_json())
        out = [known.candidates[each.trial] for each in ranking.candidates if each.dropped]
        dropped = drop_runs(self._storage, self._study_id, lambda given: without_seed(given) in out)
        if dropped:
            _logger.info(
                "%s: %d runs of candidates that are out of the race are left out", self._study, dropped
            )
        return ranking

    def _rank(
        self,
        search: Mapping[int, float],
        runs: Mapping[int, Mapping[int, RowScores]],
        before: Mapping[int, RowScores],
    ) -> Ranking:
        """Rank anew where there is more to go by: slots ask before each claim."""
        known = {trial: set(made) for trial, made in runs.items()}, set(before)
        if self._ranked is None or self._ranked[0] != known:
            self._ranked = known, rank(search, runs, before=before)
        return self._ranked[1]

    def _scores(self, kept: KeptPredictions, trial: int) -> RowScores:
        key = kept.study, trial
        if key not in self._read:
            self._read[key] = RowScores.of(kept.of(trial), all_rows=self._all_rows)
        return self._read[key]
