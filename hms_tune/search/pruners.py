"""When a trial is given up before its end.

A trial reports its cross-validation estimate at step ``fold · max_epochs + epoch + 1``. Optuna's median
pruner compares the *best* value of a trial over all its steps, so that one easy fold would shield a bad trial
for good; here it sees one fold at a time.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable, Container
from typing import Any, cast

import optuna
from optuna.pruners import BasePruner
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from hms_tune.config import study_sections as sections
from hms_tune.config.study_file import StudyFile
from hms_tune.search.optuna_private import trial_id_of
from hms_tune.search.samplers import own_pruner


def make_pruner(study_file: StudyFile) -> BasePruner:
    """The pruner of a study.

    Raises
    ------
    ConfigError
        If it is a user's own that cannot be made.
    """
    config, epochs = study_file.search.pruner, study_file.max_epochs
    pruner: BasePruner
    match config:
        case sections.OwnPruner():
            return own_pruner(study_file, config.name)
        case sections.NoPruner():
            return optuna.pruners.NopPruner()
        case sections.WilcoxonPruner():
            return optuna.pruners.WilcoxonPruner(
                p_threshold=config.p_threshold, n_startup_steps=config.startup_folds
            )
        case sections.MedianPruner() | sections.PercentilePruner():
            percentile = config.percentile if isinstance(config, sections.PercentilePruner) else 50.0
            percentile_pruner = optuna.pruners.PercentilePruner(
                percentile,
                n_startup_trials=config.startup_trials,
                n_warmup_steps=config.warmup_epochs + 1,  # steps count from 1
                interval_steps=config.interval_epochs,
                n_min_trials=config.min_trials,
            )
            pruner = FoldAwarePruner(percentile_pruner, epochs)
        case sections.SuccessiveHalvingPruner():
            pruner = optuna.pruners.SuccessiveHalvingPruner(
                min_resource=config.min_epochs,
                reduction_factor=config.reduction_factor,
                min_early_stopping_rate=config.min_early_stopping_rate,
            )
        case sections.HyperbandPruner():
            pruner = optuna.pruners.HyperbandPruner(
                min_resource=config.min_epochs,
                max_resource=epochs * study_file.max_folds,
                reduction_factor=config.reduction_factor,
            )
    return pruner if config.patience is None else PatientPruner(pruner, epochs, config.patience)


def fold_of(step: int, epochs: int) -> int:
    """The fold that a step belongs to."""
    return (step - 1) // epochs


def values_of_fold(trial: FrozenTrial, fold: int, epochs: int) -> dict[int, float]:
    """What a trial reported in one fold, by epoch counted from 1, in order."""
    first = fold * epochs
    values = trial.intermediate_values
    return {epoch: values[first + epoch] for epoch in range(1, epochs + 1) if first + epoch in values}


class FoldAwarePruner(BasePruner):
    """Shows the wrapped pruner one fold: the trial's own and the same fold of all others.

    In a fold that ended early the last value stands for the epochs that were not trained; else a trial
    would be compared with those alone that trained as long as it.

    Parameters
    ----------
    wrapped : a pruner that looks at ``study.get_trials``, ``study.direction`` and the trial's values
    epochs : the most epochs of a fold
    """

    def __init__(self, wrapped: BasePruner, epochs: int) -> None:
        self._wrapped = wrapped
        self._epochs = epochs
        self._shown: dict[int, _Shown] = {}

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        """Whether the wrapped pruner gives the trial up, judging by its current fold."""
        step = trial.last_step
        if step is None:
            return False
        fold = fold_of(step, self._epochs)
        view = cast(
            "optuna.Study", _FoldOfStudy(study, fold, self._epochs, self._shown.setdefault(fold, _Shown()))
        )
        return self._wrapped.prune(view, _with_values(trial, values_of_fold(trial, fold, self._epochs)))


class _FoldOfTrial:
    """A trial of which one fold is seen; whatever else of it is asked for, is the trial's own."""

    __slots__ = ("_trial", "intermediate_values")

    def __init__(self, trial: FrozenTrial, values: dict[int, float]) -> None:
        self._trial = trial
        self.intermediate_values = values

    def __getattr__(self, name: str) -> Any:
        return getattr(self._trial, name)


class _Shown:
    """Finished trials as they were shown, since a long study's are too many to be made at each report."""

    def __init__(self) -> None:
        self._by_id: dict[int, FrozenTrial] = {}
        self._last: tuple[list[FrozenTrial], list[FrozenTrial]] = ([], [])

    def of(self, trials: list[FrozenTrial], show: Callable[[FrozenTrial], FrozenTrial]) -> list[FrozenTrial]:
        """What ``show`` makes of each trial."""
        asked, shown = self._last
        same = len(asked) <= len(trials) and all(map(operator.is_, asked, trials))
        if not same or len(asked) < len(trials):
            before = shown if same else []
            new = trials[len(before) :]
            shown = [*before, *(self._one(trial, show) for trial in new)]
            if all(trial.state.is_finished() for trial in new):  # they report no more
                self._last = (trials, shown)
        return list(shown)

    def _one(self, trial: FrozenTrial, show: Callable[[FrozenTrial], FrozenTrial]) -> FrozenTrial:
        trial_id = trial_id_of(trial)
        if trial_id in self._by_id:
            return self._by_id[trial_id]
        shown = show(trial)
        if trial.state.is_finished():
            self._by_id[trial_id] = shown
        return shown


class _FoldOfStudy:
    """What a pruner may see of a study when it judges one fold.

    Parameters
    ----------
    shown : what was shown of this fold before
    """

    def __init__(self, study: optuna.Study, fold: int, epochs: int, shown: _Shown) -> None:
        self._study = study
        self._fold = fold
        self._epochs = epochs
        self._shown = shown

    @property
    def direction(self) -> StudyDirection:
        return self._study.direction

    def get_trials(
        self, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        trials = self._study.get_trials(deepcopy=deepcopy, states=states)
        return self._shown.of(
            trials, lambda trial: cast("FrozenTrial", _FoldOfTrial(trial, self._carried_on(trial)))
        )

    def _carried_on(self, trial: FrozenTrial) -> dict[int, float]:
        values = values_of_fold(trial, self._fold, self._epochs)
        if values and self._epochs not in values:
            last = max(values)
            values |= dict.fromkeys(range(last + 1, self._epochs + 1), values[last])
        return values


def _with_values(trial: FrozenTrial, values: dict[int, float]) -> FrozenTrial:
    shown = copy.copy(trial)
    shown.intermediate_values = values
    return shown


class PatientPruner(BasePruner):
    """Asks the wrapped pruner only after ``patience`` epochs of a fold without improvement.

    Optuna's pruner of that name waits for values to get *worse*; an estimate made of best values never does.

    Parameters
    ----------
    wrapped : the pruner that then decides
    epochs : the most epochs of a fold
    patience : epochs without improvement
    """

    def __init__(self, wrapped: BasePruner, epochs: int, patience: int) -> None:
        self._wrapped = wrapped
        self._epochs = epochs
        self._patience = patience

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        """Whether the trial has stopped improving and the wrapped pruner gives it up."""
        step = trial.last_step
        if step is None:
            return False
        values = list(values_of_fold(trial, fold_of(step, self._epochs), self._epochs).values())
        before, after = values[: -self._patience], values[-self._patience :]
        if not before or min(after) < min(before):
            return False
        return self._wrapped.prune(study, trial)
