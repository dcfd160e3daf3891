"""Which configuration begins next in a study with promotion.

A model that learns from scores cannot take a study's trials as they stand: most are partial. Here each counts
once, with all its attempts, and with the score that it is predicted to end at.
"""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

from hms_tune.config.ranges import Group, Searched, resolve
from hms_tune.search.list_turns import CONTINUES_ATTRIBUTE
from hms_tune.search.memory_constraint import CAUSE_ATTRIBUTE, HYPERPARAMETERS, is_infeasible
from hms_tune.search.promotion.drift import Drift
from hms_tune.search.promotion.progress import ProgressState, TrialProgress
from hms_tune.search.promotion.surrogate import Known, Surrogate, on_the_scale_of
from hms_tune.search.random_draws import CountedRandomSampler, uniform_draw, value_at
from hms_tune.search.suggest import distribution, distributions, lies_in, suggest

_logger = logging.getLogger(__name__)

CANDIDATES = 200
STARTUP_TRIALS = 8
RANDOM_SHARE = 0.1

_STATES: dict[TrialState, ProgressState] = {
    TrialState.RUNNING: "running",
    TrialState.PRUNED: "paused",
    TrialState.COMPLETE: "complete",
    TrialState.FAIL: "running",  # requeued or lost: it goes on
}


def progress_of(study: optuna.Study, rungs: tuple[int, ...]) -> list[TrialProgress]:
    """How far each trial of a study is, by its last attempt; those that failed before a report are left out.

    A draw that the device had no room for, or whose training diverged, is as bad as can be.
    """
    attempts = study.get_trials(deepcopy=False, states=tuple(_STATES))
    continued = {each.user_attrs.get(CONTINUES_ATTRIBUTE) for each in attempts}
    found = (_progress(each, rungs) for each in attempts if each.number not in continued)
    return [each for each in found if each is not None]


def _progress(attempt: FrozenTrial, rungs: tuple[int, ...]) -> TrialProgress | None:
    number, params, state = attempt.number, attempt.params, _STATES[attempt.state]
    if is_infeasible(attempt) or attempt.user_attrs.get(CAUSE_ATTRIBUTE) == HYPERPARAMETERS:
        return TrialProgress(number, params, rungs[0], {rungs[0]: math.inf}, "pruned")
    if attempt.state == TrialState.COMPLETE and attempt.value is not None:
        estimates = attempt.intermediate_values | {rungs[-1]: attempt.value}
        return TrialProgress(number, params, rungs[-1], estimates, state)
    if not attempt.intermediate_values and attempt.state != TrialState.RUNNING:
        return None
    return TrialProgress(number, params, attempt.last_step or 0, attempt.intermediate_values, state)


class WholeSampler(CountedRandomSampler):
    """Chooses all parameters of a trial when the first of them is asked for, and hands them out one by one.

    Parameters
    ----------
    space : the study's space
    seed : the study's seed
    rungs : the steps at which trials pause
    startup_trials : trials at the first rung, or of another study, before the model chooses; until then the
        draws are those of :class:`~hms_tune.search.random_draws.CountedRandomSampler`
    elsewhere : what is known from another study
    """

    def __init__(
        self,
        space: Group,
        seed: int,
        rungs: tuple[int, ...],
        *,
        startup_trials: int = STARTUP_TRIALS,
        elsewhere: Sequence[Known] = (),
    ) -> None:
        super().__init__(seed)
        self._elsewhere = elsewhere
        self._space = space
        self._rungs = rungs
        self._startup_trials = startup_trials
        self._chosen: dict[int, dict[str, Any]] = {}
        self._lies_here: dict[int, bool] = {}

    def model(self, number: int, trials: Sequence[TrialProgress]) -> dict[str, Any]:
        """The parameters of the trial with this number, from how far the others are."""
        raise NotImplementedError

    def choose(self, number: int, trials: Sequence[TrialProgress]) -> dict[str, Any]:
        """The parameters of the trial with this number."""
        seen = len(self._elsewhere) + sum(trial.step >= self._rungs[0] for trial in trials)
        explores = uniform_draw(self._seed, number, "explore") < RANDOM_SHARE
        if seen < self._startup_trials or explores:
            return self.candidate(number, 0)
        return self.model(number, trials)

    def _trials(self, study: optuna.Study) -> list[TrialProgress]:
        """How far trials are; those that another program drew from elsewhere teach nothing, and are named."""
        found = progress_of(study, self._rungs)
        for each in found:
            if each.number not in self._lies_here:
                self._lies_here[each.number] = lies_in(self._space, each.params)
                if not self._lies_here[each.number]:
                    told = "trial %d has values that this study does not search; the sampler leaves it out"
                    _logger.warning(told, each.number)
        return [each for each in found if self._lies_here[each.number]]

    def candidate(self, number: int, index: int) -> dict[str, Any]:
        """One of the configurations drawn for a trial: its parameters, conditional ones where they exist."""
        drawn: dict[str, Any] = {}
        which = (f"candidate {index}",) if index else ()

        def choose(name: str, node: Searched) -> Any:
            drawn[name] = value_at(distribution(node), uniform_draw(self._seed, number, *which, name))
            return drawn[name]

        resolve(self._space, choose)
        return drawn

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Hand out one chosen value."""
        if trial.number not in self._chosen:
            self._chosen = {trial.number: self.choose(trial.number, self._trials(study))}
        chosen = self._chosen[trial.number]
        if param_name in chosen:
            return chosen[param_name]
        # Only where a value was fixed by whoever enqueued the trial, which led to another branch.
        return super().sample_independent(study, trial, param_name, param_distribution)


class LearningCurveSampler(WholeSampler):
    """Draws candidates at random and takes the one with the largest expected improvement.

    Every draw is a function of the study's seed, the trial's number and the parameter's name, so that workers
    never repeat each other. One draw in ten is not the model's.
    """

    def __init__(
        self,
        space: Group,
        seed: int,
        rungs: tuple[int, ...],
        *,
        startup_trials: int = STARTUP_TRIALS,
        elsewhere: Sequence[Known] = (),
        candidates: int = CANDIDATES,
    ) -> None:
        super().__init__(space, seed, rungs, startup_trials=startup_trials, elsewhere=elsewhere)
        self._count = candidates
        self._surrogate = Surrogate(distributions(space), rungs, elsewhere)
        self._gain: tuple[int, float] | None = None

    def expected_gain(self, number: int) -> float | None:
        """What one more trial was expected to gain over the best complete one when this one was drawn.

        That is by the most promising candidate, or by a trial that waits at a rung. None: no trial was
        complete, or the model did not draw this one.
        """
        return self._gain[1] if self._gain is not None and self._gain[0] == number else None

    def model(self, number: int, trials: Sequence[TrialProgress]) -> dict[str, Any]:
        """The most promising of the candidates."""
        candidates = [self.candidate(number, index) for index in range(self._count)]
        posterior = self._surrogate.fit(trials)
        gains = posterior.expected_improvement(candidates)
        complete = [trial.value(self._rungs[-1]) for trial in trials if trial.state == "complete"]
        if complete:
            best = min(complete)
            waiting = {trial.number for trial in trials if trial.state == "paused"}
            further = posterior.improvement_of_trials(best)
            gain = max(
                float(posterior.expected_improvement(candidates, best).max()),
                *(further[each] for each in waiting & further.keys()),
                0.0,
            )
            self._gain = number, gain
        return candidates[int(gains.argmax())]


class _Shown(FrozenTrial):
    """A complete trial; a study takes it in without a copy of its parameters and their distributions."""

    def __init__(
        self, params: Mapping[str, Any], distributions: Mapping[str, BaseDistribution], score: float
    ) -> None:
        super().__init__(
            number=-1,  # the study's storage gives the number and the id
            trial_id=-1,
            state=TrialState.COMPLETE,
            value=score,
            datetime_start=datetime.now(),
            datetime_complete=datetime.now(),
            params=dict(params),
            distributions={name: distributions[name] for name in params},
            user_attrs={},
            system_attrs={},
            intermediate_values={},
        )

    def __deepcopy__(self, memo: object) -> _Shown:
        return copy.copy(self)


class PredictedScoreSampler(WholeSampler):
    """Another sampler, shown a study in which each trial is complete with its predicted score.

    Parameters
    ----------
    make : makes the sampler, for the trial with a number
    """

    def __init__(
        self,
        make: Callable[[int], BaseSampler],
        space: Group,
        seed: int,
        rungs: tuple[int, ...],
        *,
        startup_trials: int = STARTUP_TRIALS,
        elsewhere: Sequence[Known] = (),
    ) -> None:
        super().__init__(space, seed, rungs, startup_trials=startup_trials, elsewhere=elsewhere)
        self._make = make
        self._distributions = distributions(space)

    def model(self, number: int, trials: Sequence[TrialProgress]) -> dict[str, Any]:
        """What the sampler draws next."""
        shown = optuna.create_study(sampler=self._make(number), storage=None)
        drift = Drift.of(trials, self._rungs)
        own = []
        for trial in trials:
            level = sum(trial.step >= rung for rung in self._rungs) - 1
            if level >= 0:
                own.append(Known(trial.params, trial.value(self._rungs[level]) + drift.shift[level]))
        scores = np.array([known.score for known in own], float)
        others = on_the_scale_of(scores, self._elsewhere)
        for known, score in zip([*self._elsewhere, *own], [*others, *scores], strict=True):
            shown.add_trial(_Shown(known.params, self._distributions, float(score)))
        asked = shown.ask()
        suggest(self._space, asked)
        return asked.params
