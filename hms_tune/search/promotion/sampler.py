"""Which configuration begins next in a study with promotion: of many drawn ones, the most promising."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

from hms_tune.config.ranges import Group, Searched, resolve
from hms_tune.search.promotion.progress import TrialProgress
from hms_tune.search.promotion.surrogate import Surrogate
from hms_tune.search.random_draws import uniform_draw, value_at
from hms_tune.search.suggest import distribution, distributions

CANDIDATES = 200
STARTUP_TRIALS = 8
RANDOM_SHARE = 0.1


class PromotionSampler(BaseSampler):
    """Draws candidates at random and takes the one with the largest expected improvement.

    Every draw is a function of the study's seed, the trial's number and the parameter's name, so that workers
    never repeat each other. Before some trials have reached the first rung, and for one draw in ten, the
    first candidate is taken: the one that :class:`~hms_tune.search.random_draws.CountedRandomSampler` draws.

    Parameters
    ----------
    space : the study's space
    seed : the study's seed
    rungs : the steps at which trials pause
    progress : tells how far all trials are; asked once for each trial that begins
    startup_trials : trials at the first rung before the model chooses
    candidates : how many configurations are drawn for one trial
    """

    def __init__(
        self,
        space: Group,
        seed: int,
        rungs: tuple[int, ...],
        progress: Callable[[], Sequence[TrialProgress]],
        *,
        startup_trials: int = STARTUP_TRIALS,
        candidates: int = CANDIDATES,
    ) -> None:
        self._space = space
        self._seed = seed
        self._rungs = rungs
        self._progress = progress
        self._startup_trials = startup_trials
        self._candidates = candidates
        self._surrogate = Surrogate(distributions(space), rungs)
        self._chosen: dict[int, dict[str, Any]] = {}

    def choose(self, number: int) -> dict[str, Any]:
        """The parameters of the trial with this number."""
        trials = self._progress()
        seen = sum(trial.step >= self._rungs[0] for trial in trials)
        if seen < self._startup_trials or uniform_draw(self._seed, number, "explore") < RANDOM_SHARE:
            return self._candidate(number, 0)
        candidates = [self._candidate(number, index) for index in range(self._candidates)]
        gains = self._surrogate.fit(trials).expected_improvement(candidates)
        return candidates[int(gains.argmax())]

    def _candidate(self, number: int, index: int) -> dict[str, Any]:
        """One of the configurations drawn for a trial: its parameters, conditional ones where they exist."""
        drawn: dict[str, Any] = {}
        which = (f"candidate {index}",) if index else ()

        def choose(name: str, node: Searched) -> Any:
            drawn[name] = value_at(distribution(node), uniform_draw(self._seed, number, *which, name))
            return drawn[name]

        resolve(self._space, choose)
        return drawn

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Choose all of the trial's parameters, before any is asked for."""
        self._chosen[trial.number] = self.choose(trial.number)

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Nothing: which parameters a trial has depends on its choices."""
        return {}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Nothing: parameters are chosen together, but handed out one by one."""
        return {}

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Hand out one chosen value."""
        chosen = self._chosen.get(trial.number, {})
        if param_name in chosen:
            return chosen[param_name]
        # Only where a value was fixed by whoever enqueued the trial, which led to another branch.
        return value_at(param_distribution, uniform_draw(self._seed, trial.number, param_name))

    def after_trial(
        self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        """Forget what was chosen."""
        self._chosen.pop(trial.number, None)
