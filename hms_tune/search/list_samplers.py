"""Samplers that go through a list, safely with any number of workers: grid and quasi-random."""

from __future__ import annotations

import random
import warnings
from functools import cached_property
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial

from hms_tune.config.ranges import Group
from hms_tune.errors import UsageError
from hms_tune.search.list_turns import is_enqueued, turn_of
from hms_tune.search.random_draws import CountedRandomSampler, derived_seed, value_at
from hms_tune.search.suggest import distributions, grid


class _ListedSampler(BaseSampler):
    """A trial takes the entry of its turn; what an enqueued trial leaves open is drawn at random."""

    goes_through_a_list = True

    def __init__(self, space: Group, seed: int) -> None:
        self._distributions = distributions(space)
        self._random = CountedRandomSampler(seed)

    def entry(self, turn: int) -> dict[str, Any]:
        """Parameter values of a turn."""
        raise NotImplementedError

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """All parameters, unless the trial was enqueued."""
        return {} if is_enqueued(trial) else self._distributions

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The entry of the trial's turn."""
        return self.entry(turn_of(study, trial)) if search_space else {}

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Draw what an enqueued trial leaves open."""
        return self._random.sample_independent(study, trial, param_name, param_distribution)


class GridSampler(_ListedSampler):
    """Every cell of the grid once, in an order shuffled by the study's seed.

    Unlike Optuna's, the grid knows conditional parameters: a cell has no values for branches not taken.

    Raises
    ------
    ConfigError
        If a range is continuous.
    """

    def __init__(self, space: Group, seed: int) -> None:
        super().__init__(space, seed)
        self._cells = grid(space)
        random.Random(derived_seed(seed, "grid")).shuffle(self._cells)

    def entry(self, turn: int) -> dict[str, Any]:
        """The cell of a turn.

        Raises
        ------
        UsageError
            If every cell has had its turn.
        """
        if turn >= len(self._cells):
            raise UsageError(
                f"all {len(self._cells)} cells of the grid have been tried",
                hint="Search a larger grid in a new study, or use another sampler",
            )
        return self._cells[turn]


class QmcSampler(_ListedSampler):
    """Scrambled Sobol points over all parameters; every worker has the same points.

    A conditional parameter keeps its own dimension, used only where the parameter exists.
    """

    def __init__(self, space: Group, seed: int) -> None:
        super().__init__(space, seed)
        self._seed = derived_seed(seed, "qmc")

    def entry(self, turn: int) -> dict[str, Any]:
        """The point of a turn as parameter values."""
        if not self._distributions:
            return {}
        engine = self._engine.reset()
        if turn:
            engine.fast_forward(turn)
        with warnings.catch_warnings():
            # SciPy warns that single points are not balanced; the sequence over all turns is.
            warnings.simplefilter("ignore", UserWarning)
            (point,) = engine.random(1)
        positions = zip(self._distributions.items(), point, strict=True)
        return {name: value_at(searched, float(position)) for (name, searched), position in positions}

    @cached_property
    def _engine(self) -> Any:
        # Imported here: it takes longer than all else that a command imports, and few studies want it.
        from scipy.stats import qmc

        return qmc.Sobol(len(self._distributions), scramble=True, seed=self._seed)
