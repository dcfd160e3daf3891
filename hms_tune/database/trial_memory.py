"""Optuna's memory of finished trials, one for all of a process."""

from __future__ import annotations

import bisect
import copy
import time
from collections.abc import Container
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from hms_tune.database.trial_writer import MadeTrial
from hms_tune.search.optuna_private import CachedStorage

FRESH_S = 2.0
"""How old may be what a running trial's pruner knows of the trials that others have ended, s."""


class TrialMemory(CachedStorage):
    """Optuna's memory of finished trials.

    Nothing is read before somebody asks for trials. From then on Optuna's reads all others again whenever it
    is asked. Most who ask, the pruner at each report, want finished ones alone: then it reads of the others
    whether they have ended, no more often than every few seconds during a trial, and gathers finished ones
    only if there are new ones.

    Parameters
    ----------
    backend : a :class:`~hms_tune.database.optuna_storage.PatientStorage`
    """

    def __init__(self, backend: Any) -> None:
        super().__init__(backend)
        self._reading_ended = backend.reading_ended
        self._ended: dict[tuple[int, frozenset[TrialState]], list[FrozenTrial]] = {}
        self._read_at: dict[int, float] = {}
        self._newest: dict[int, int] = {}

    def newest(self, study_id: int) -> int:
        """The largest id of a study's trials that were taken in; -1: none was."""
        return self._newest.get(study_id, -1)

    def takes_in(self, study_id: int, made: MadeTrial, *, newest: int) -> bool:
        """Know a trial that was made, or taken, in a transaction of the caller's.

        Parameters
        ----------
        newest : what :meth:`newest` said before that

        Returns
        -------
        False if newer trials are known already: the database has gone back.
        """
        self.get_study_directions(study_id)
        trial_id = made.optuna_trial_id
        with self._lock:
            known = self._studies[study_id]
            if made.is_new and trial_id <= max(newest, known.last_finished_trial_id):
                return False
            if self._get_cached_trial(trial_id) is not None:  # it has ended
                return False
            self._newest[study_id] = max(trial_id, self.newest(study_id))
            self._add_trials_to_cache(study_id, [_running(made)])
            known.unfinished_trial_ids.add(trial_id)
        self._read_at.pop(study_id, None)
        return True

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        """A study's trials, by number."""
        if states is None or TrialState.RUNNING in states or TrialState.WAITING in states:
            return super().get_all_trials(study_id, deepcopy, states)
        asked_at = time.monotonic()
        if asked_at - self._read_at.get(study_id, float("-inf")) >= FRESH_S:
            with self._reading_ended():
                self._read_trials_from_remote_storage(study_id)
            self._read_at[study_id] = asked_at
        with self._lock:
            key = (study_id, frozenset(state for state in TrialState if state in states))
            if key not in self._ended:
                found = (trial for trial in self._studies[study_id].trials.values() if trial.state in states)
                self._ended[key] = sorted(found, key=_number)
            trials = self._ended[key]
            return copy.deepcopy(trials) if deepcopy else list(trials)

    def _add_trials_to_cache(self, study_id: int, trials: list[FrozenTrial]) -> None:
        super()._add_trials_to_cache(study_id, trials)
        ended = [trial for trial in trials if trial.state.is_finished()]
        for (of_study, states), known in self._ended.items():
            if of_study == study_id:
                for trial in ended:
                    if trial.state in states:
                        bisect.insort(known, trial, key=_number)


def _number(trial: FrozenTrial) -> int:
    return trial.number


def _running(made: MadeTrial) -> FrozenTrial:
    """What is known of a trial until it is read."""
    return FrozenTrial(
        number=made.number,
        state=TrialState.RUNNING,
        value=None,
        datetime_start=None,
        datetime_complete=None,
        params={},
        distributions={},
        user_attrs={},
        system_attrs={},
        intermediate_values={},
        trial_id=made.optuna_trial_id,
    )
