"""What pruners of Optuna's interface look at, made light: thousands of orders are replayed.

:class:`Trials` stands for a study in memory, without the copies that storages make. :func:`remember` keeps
what Optuna's pruners compute anew though nothing has changed. Neither changes a decision.
"""

from __future__ import annotations

import copy
import datetime
from collections.abc import Callable, Container
from typing import Any

import numpy as np
import scipy.stats
from optuna.pruners import _percentile
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

_EPOCH = datetime.datetime(2000, 1, 1)


class Trials:
    """Trials as a pruner asks a study for them."""

    direction = StudyDirection.MINIMIZE

    def __init__(self, study_name: str) -> None:
        self.study_name = study_name
        self._storage = self
        self._all: list[FrozenTrial] = []
        self._complete: list[FrozenTrial] = []

    def begin(self) -> int:
        """The number of a trial that runs."""
        number = len(self._all)
        trial = FrozenTrial(
            number=number,
            trial_id=number,
            state=TrialState.RUNNING,
            value=None,
            datetime_start=_EPOCH,
            datetime_complete=None,
            params={},
            distributions={},
            user_attrs={},
            system_attrs={},
            intermediate_values={},
        )
        self._all.append(trial)
        return number

    def end(self, trial: FrozenTrial, value: float | None) -> None:
        """A trial is complete; without a value: it was pruned."""
        trial.datetime_complete = _EPOCH
        trial.state = TrialState.PRUNED if value is None else TrialState.COMPLETE
        if value is not None:
            trial.value = value
            self._complete.append(trial)

    def get_trials(
        self, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        """The trials in some states, never copied."""
        if states == (TrialState.COMPLETE,):
            return list(self._complete)
        return [trial for trial in self._all if states is None or trial.state in states]

    @property
    def best_trial(self) -> FrozenTrial:
        """The complete one with the lowest value."""
        return min(self._complete, key=lambda trial: trial.value or 0.0)  # raises ValueError where none is

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Note a value at a rung, as a storage does: who has the trial already does not see it."""
        trial = copy.copy(self._all[trial_id])
        trial.system_attrs = {**trial.system_attrs, key: value}
        self._all[trial_id] = trial

    def trial(self, number: int) -> FrozenTrial:
        """The trial as it stands."""
        return self._all[number]


_percentiles: dict[tuple[Any, ...], tuple[list[FrozenTrial], float]] = {}
_p_values: dict[tuple[bytes, str], Any] = {}


def forget() -> None:
    """Another order begins, with other trials."""
    _percentiles.clear()


def remember() -> None:
    """Compute what pruners compare with once, as long as the same trials are complete; p values for good."""
    percentile: Callable[..., float] = _percentile._get_percentile_intermediate_result_over_trials
    wilcoxon: Callable[..., Any] = scipy.stats.wilcoxon

    def percentile_once(completed: list[FrozenTrial], *given: Any) -> float:
        key = (*given, *map(id, completed))
        if key not in _percentiles:
            _percentiles[key] = completed, percentile(completed, *given)  # kept, so that no id is used again
        return _percentiles[key][1]

    def wilcoxon_once(differences: Any, *, alternative: str, zero_method: str) -> Any:
        key = np.asarray(differences).tobytes(), alternative + zero_method
        if key not in _p_values:
            _p_values[key] = wilcoxon(differences, alternative=alternative, zero_method=zero_method)
        return _p_values[key]

    _percentile._get_percentile_intermediate_result_over_trials = percentile_once
    scipy.stats.wilcoxon = wilcoxon_once
