"""Optuna's own samplers, restricted to the configurations of a table; further strategies of ``search.py``.

The Gaussian process looks for its largest acquisition among configurations that have not begun. What CMA-ES
and Sobol's points draw is no row of the table: the nearest configuration that has not begun stands in for it,
in the coordinates of the product's model, and is what the sampler is told of. That costs them some of what
they know.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import optuna
import torch
from optuna._gp import gp
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, GPSampler
from optuna.trial import FrozenTrial, TrialState
from search_arms import Choices, Maker, Pool, Promoted, Pruned
from search_replay import Floats, Table

from hms_tune.config.ranges import parameters, resolve
from hms_tune.config.study_file import StudyFile
from hms_tune.search.list_samplers import QmcSampler
from hms_tune.search.promotion_sampler import STARTUP_TRIALS, PredictedScoreSampler
from hms_tune.search.pruners import make_pruner
from hms_tune.search.samplers import DEFAULT_STARTUP_TRIALS, make_sampler


class Tabulated(BaseSampler):
    """Draws a configuration of the table; its number is ``number`` until the next draw."""

    def __init__(self, table: Table, pool: Pool) -> None:
        self.table, self.pool = table, pool
        self.number = -1

    def take(self, study: optuna.Study, trial: FrozenTrial) -> int:
        """Choose a configuration that has not begun."""
        raise NotImplementedError

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        return self.table.distributions

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        self.number = self.take(study, trial)
        return dict(self.table.params[self.number])

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        raise AssertionError(f"{param_name} is part of every configuration that has it")


class Nearest(Tabulated):
    """A sampler that draws freely, and the nearest configuration in place of what it drew."""

    def __init__(self, table: Table, pool: Pool, sampler: BaseSampler) -> None:
        super().__init__(table, pool)
        self._sampler = sampler

    def take(self, study: optuna.Study, trial: FrozenTrial) -> int:
        joint = self._sampler.infer_relative_search_space(study, trial)
        drawn = self._sampler.sample_relative(study, trial, joint)
        if not drawn:  # not enough trials yet
            return self.pool.random()

        def choose(name: str, _node: object) -> Any:
            if name not in drawn:
                drawn[name] = self._sampler.sample_independent(
                    study, trial, name, self.table.distributions[name]
                )
            params[name] = drawn[name]
            return drawn[name]

        params: dict[str, Any] = {}
        resolve(self.table.space, choose)
        return self.pool.nearest(params)


class _TableGP(GPSampler):
    """Optuna's Gaussian process, with its acquisition maximized over configurations of the table."""

    def __init__(self, table: Table, pool: Pool, *, explores: bool, **given: Any) -> None:
        super().__init__(**given, warn_independent_sampling=False)
        self._table, self._pool, self._explores = table, pool, explores
        self.taken: int | None = None

    def _optimize_acqf(self, acqf: Any, best_params: Any) -> Any:
        def encoded(numbers: list[int]) -> Floats:
            params = [self._table.params[number] for number in numbers]
            return np.asarray(acqf.search_space.get_normalized_params([None] * len(params), params))

        self.taken = self._pool.most(
            lambda some: np.asarray(acqf.eval_acqf_no_grad(encoded(some))), explores=self._explores
        )
        return encoded([self.taken])[0]


class GP(Tabulated):
    """Optuna's Gaussian process; see :func:`fit_seldom`."""

    def __init__(self, table: Table, pool: Pool, seed: int, *, explores: bool, startup_trials: int) -> None:
        super().__init__(table, pool)
        self._gp = _TableGP(table, pool, explores=explores, seed=seed, n_startup_trials=startup_trials)
        always = [each.name for each in parameters(table.space) if not each.condition]
        self._joint = {
            name: table.distributions[name] for name in always if not table.distributions[name].single()
        }

    def take(self, study: optuna.Study, trial: FrozenTrial) -> int:
        self._gp.taken = None
        self._gp.sample_relative(study, trial, self._joint)
        return self.pool.random() if self._gp.taken is None else self._gp.taken


def fit_seldom() -> None:
    """Let Optuna's Gaussian process fit its length scales when there are a fifth more trials than last time.

    The product's own model does so; Optuna's fits them before every draw, which takes most of a replay.
    """
    fit: Callable[..., Any] = gp.fit_kernel_params

    def seldom(**given: Any) -> Any:
        before, count = given["gpr_cache"], len(given["X"])
        if before is None or count >= 1.2 * before.fitted_to + 4:
            made = fit(**given)
            made.fitted_to = count
            return made
        made = gp.GPRegressor(
            torch.from_numpy(given["is_categorical"]),
            torch.from_numpy(given["X"]),
            torch.from_numpy(given["Y"]),
            before.inverse_squared_lengthscales,
            before.kernel_scale,
            before.noise_var,
        )
        made._cache_matrix()
        made.fitted_to = before.fitted_to
        return made

    gp.fit_kernel_params = seldom


class Sampled(Pruned):
    """A sampler of Optuna's interface beside a pruner."""

    def __init__(self, table: Table, seed: int, *, sampler: str, pruner: str) -> None:
        parsed = _study_file(table.text, f"{{sampler: {sampler}, pruner: {pruner}}}")
        study_file = replace(parsed, search=parsed.search.model_copy(update={"seed": seed}))
        super().__init__(table, seed, make_pruner(study_file), report="estimate")
        if sampler == "gp":
            startup = DEFAULT_STARTUP_TRIALS["gp"]
            self._sampler: Tabulated = GP(table, self.pool, seed, explores=False, startup_trials=startup)
        else:
            self._sampler = Nearest(table, self.pool, make_sampler(study_file, worker_seed=0))
        self._study = optuna.create_study(sampler=self._sampler)
        self._drawn: dict[int, optuna.Trial] = {}

    @classmethod
    def make(cls, sampler: str, pruner: str) -> Maker:
        return lambda table, seed: cls(table, seed, sampler=sampler, pruner=pruner)

    def begin(self) -> int:
        trial = self._study.ask()
        for name in trial.relative_params:
            trial._suggest(name, self.table.distributions[name])
        self._drawn[self._sampler.number] = trial
        return self._sampler.number

    def ended(self, number: int, step: int) -> None:
        super().ended(number, step)
        value = self.complete.get(number)
        state = TrialState.PRUNED if value is None else TrialState.COMPLETE
        self._study.tell(self._drawn[number], value, state)


class PromotedGP(Promoted):
    """The product's promotion with Optuna's Gaussian process on the predicted final scores."""

    def __init__(self, table: Table, seed: int) -> None:
        super().__init__(table, seed, Choices())
        sampler = GP(table, self.pool, seed, explores=True, startup_trials=0)
        self._gp = sampler
        self._shown = PredictedScoreSampler(lambda _number: sampler, table.space, seed, self.rungs)

    def begin(self) -> int:
        trials = [trial for trial in self.progress.values() if trial.step]
        if len(trials) < STARTUP_TRIALS:
            return self.pool.random()
        self._shown.model(len(self.progress), trials)
        return self._gp.number


class PromotedSobol(Promoted):
    """The product's promotion of configurations in the order of Sobol's points."""

    def __init__(self, table: Table, seed: int) -> None:
        super().__init__(table, seed, Choices(model="none"))
        self._points = QmcSampler(table.space, seed)

    def begin(self) -> int:
        params: dict[str, Any] = {}
        point = self._points.entry(len(self.progress))
        resolve(self.table.space, lambda name, _node: params.setdefault(name, point[name]))
        return self.pool.nearest(params)


@cache
def _study_file(text: str, search: str) -> StudyFile:
    before, _, _ = text.rpartition("search:")
    return StudyFile.parse(f"{before}search: {search}\n", "benchmarks/search_samplers.py")


SAMPLER_ARMS: dict[str, Maker] = {
    "CMA-ES, no pruning": Sampled.make("cma_es", "none"),
    "CMA-ES + median (defaults)": Sampled.make("cma_es", "median"),
    "Sobol + median (defaults)": Sampled.make("qmc", "median"),
    "Sobol + promotion": PromotedSobol,
    "Optuna's GP + median (defaults)": Sampled.make("gp", "median"),
    "Optuna's GP + promotion": PromotedGP,
}

COSTLY = frozenset(name for name in SAMPLER_ARMS if "GP" in name)
"""What takes seconds for each order, so that fewer orders are replayed."""
