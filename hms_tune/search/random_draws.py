"""Draws that no two trials share, on however many workers.

Optuna's samplers keep a random state in each process, so two workers with one seed, or one worker started
twice, repeat their draws. Here a draw is a function of the study's seed, the trial's number and the
parameter's name. Numbers are handed out by the database, one per trial.
"""

from __future__ import annotations

import hashlib
import math
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial


def derived_seed(*parts: int | str) -> int:
    """A 32-bit seed from several: different parts, unrelated seeds."""
    text = "\0".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")


def uniform_draw(*parts: int | str) -> float:
    """A number in [0, 1) that depends on all parts alone."""
    text = "\0".join(f"{type(part).__name__}:{part}" for part in parts)
    return (int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 11) / 2**53


def value_at(distribution: BaseDistribution, position: float) -> Any:
    """The value at ``position`` of a distribution's cumulative probability.

    Parameters
    ----------
    distribution : float, int or categorical
    position : in [0, 1)
    """
    if isinstance(distribution, CategoricalDistribution):
        count = len(distribution.choices)
        return distribution.choices[min(int(position * count), count - 1)]
    if isinstance(distribution, IntDistribution):
        low, high, step = distribution.low, distribution.high, distribution.step
        if distribution.log:
            number = _between(math.log(low - 0.5), math.log(high + 0.5), position)
            return min(max(round(math.exp(number)), low), high)
        count = (high - low) // step + 1
        return low + step * min(int(position * count), count - 1)
    if isinstance(distribution, FloatDistribution):
        bottom, top = distribution.low, distribution.high
        if distribution.step is not None:
            count = round((top - bottom) / distribution.step) + 1
            return min(bottom + distribution.step * min(int(position * count), count - 1), top)
        if distribution.log:
            drawn = math.exp(_between(math.log(bottom), math.log(top), position))
        else:
            drawn = _between(bottom, top, position)
        return min(max(drawn, bottom), top)
    raise TypeError(f"no draws from {type(distribution).__name__}")


def _between(low: float, high: float, position: float) -> float:
    return low + (high - low) * position


class CountedRandomSampler(BaseSampler):
    """Uniform draws, each from (study seed, trial number, parameter name).

    Parameters
    ----------
    seed : the study's seed
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Nothing is drawn jointly."""
        return {}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Nothing is drawn jointly."""
        return {}

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Draw one parameter."""
        return value_at(param_distribution, uniform_draw(self._seed, trial.number, param_name))
