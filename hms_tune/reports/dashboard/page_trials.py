"""The trials of the dashboard's pages: most of them without what they reported.

A page draws a line of the values that each trial reported. A browser works at a thousand lines for longer
than at all the rest, and nobody can tell them apart: only the newest trials and the best keep theirs.
"""

from __future__ import annotations

import threading
from collections.abc import Container, Iterator
from contextlib import contextmanager

from optuna.trial import FrozenTrial, TrialState

from hms_tune.database.connect import Storage
from hms_tune.database.ended_trials import without_reports
from hms_tune.database.queries.studies import is_ours
from hms_tune.database.queries.totals import best_attempt_ids
from hms_tune.search.optuna_private import CachedStorage, trial_id_of

NEWEST, BEST = 50, 10
"""How many trials keep their reported values: the newest, and the best."""


class PageTrials(CachedStorage):
    """Optuna's memory of ended trials, which are read once, not again with each poll of an open page."""

    def __init__(self, storage: Storage) -> None:
        super().__init__(storage.optuna)
        self._storage = storage
        self._asked = threading.local()

    @contextmanager
    def for_a_page(self) -> Iterator[None]:
        """During the block, this thread is told what few trials reported; nobody may change those it gets."""
        self._asked.for_a_page = True
        try:
            yield
        finally:
            self._asked.for_a_page = False

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        """A study's trials, by number."""
        if not getattr(self._asked, "for_a_page", False):
            return super().get_all_trials(study_id, deepcopy, states)
        trials = super().get_all_trials(study_id, False, states)
        with self._storage.transaction() as connection:
            if not is_ours(connection, study_id):
                return trials
            best = frozenset(best_attempt_ids(connection, study_id, most=BEST))
        return [
            trial if trial_id_of(trial) in best else without_reports(trial) for trial in trials[:-NEWEST]
        ] + trials[-NEWEST:]
