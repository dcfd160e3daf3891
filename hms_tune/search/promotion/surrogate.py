"""One model over parameters and partial curves: what a configuration's final score may be.

The final score of a configuration is ``mean + g(parameters) + a deviation of its own``; ``g`` is a Gaussian
process. A trial at a rung shows its final score plus noise: how far estimates move from a rung to the end,
and how unequally, is learnt from the trials that went on (:class:`~hms_tune.search.promotion.drift.Drift`).
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from hms_tune.search.promotion.drift import Drift, bounded
from hms_tune.search.promotion.progress import TrialProgress

Floats = NDArray[np.float64]

LENGTH_SCALES = (0.5, 0.8, 1.3, 2.0, 3.0)
SHARES = (0.3, 0.6, 0.9)
MOST_TO_FIT = 300
"""Length scale and share are fitted to at most so many trials."""

MOST_KNOWN = 1000
"""The model knows at most so many trials: its time grows with their cube, its memory with their square."""

INCUMBENT_QUANTILE = 0.05
ELSEWHERE_DOUBT = 0.5
"""Variance of a score from another study about what it tells of this one's, over the variance of scores."""
CHOICE_DISTANCE = 0.7
ABSENT = object()


class Encoder:
    """Parameters as numbers in [0, 1]: choices one-hot, absent ones in the middle.

    Parameters
    ----------
    distributions : Optuna's distribution of every parameter, also of those that exist in some branches alone
    """

    def __init__(self, distributions: Mapping[str, BaseDistribution]) -> None:
        self._columns = [
            (name, _choice(dist) if isinstance(dist, CategoricalDistribution) else _number(dist))
            for name, dist in distributions.items()
            if not dist.single()
        ]

    def __call__(self, params: Sequence[Mapping[str, Any]]) -> Floats:
        """Encode configurations; float array, shape (n_configurations, n_columns)."""
        rows = [
            [column for name, columns in self._columns for column in columns(given.get(name, ABSENT))]
            for given in params
        ]
        return np.array(rows, float).reshape(len(rows), -1)


def _choice(distribution: CategoricalDistribution) -> Callable[[Any], Sequence[float]]:
    rows: list[list[float]] = (CHOICE_DISTANCE * np.eye(len(distribution.choices))).tolist()
    absent = [0.0] * len(rows)

    def columns(value: Any) -> Sequence[float]:
        return absent if value is ABSENT else rows[int(distribution.to_internal_repr(value))]

    return columns


def _number(distribution: BaseDistribution) -> Callable[[Any], Sequence[float]]:
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    scale: Callable[[float], float] = math.log if distribution.log else float
    low, high = scale(distribution.low), scale(distribution.high)

    def columns(value: Any) -> Sequence[float]:
        return (0.5,) if value is ABSENT else ((scale(value) - low) / (high - low),)

    return columns


@dataclass(frozen=True, slots=True)
class _Hyperparameters:
    """``share`` of the variance is explained by the parameters."""

    length: float
    share: float


@dataclass(frozen=True, slots=True)
class Known:
    """A configuration of another study and its score there."""

    params: Mapping[str, Any]
    score: float


def on_the_scale_of(scores: Floats, elsewhere: Sequence[Known]) -> Floats:
    """Scores of another study, moved and stretched to mean and spread of some of this one's."""
    others = bounded(np.array([known.score for known in elsewhere], float))
    finite = scores[np.isfinite(scores)]
    if len(others) < 2 or len(finite) < 2:
        return others
    return np.asarray(finite.mean() + finite.std() * (others - others.mean()) / (others.std() or 1.0))


class Surrogate:
    """Learns from all trials and says what others may come to.

    Parameters
    ----------
    distributions : of every parameter of the study's space
    rungs : the steps at which trials pause
    elsewhere : what is known from another study; its scores count by how far they are from one another
    """

    def __init__(
        self,
        distributions: Mapping[str, BaseDistribution],
        rungs: tuple[int, ...],
        elsewhere: Sequence[Known] = (),
    ) -> None:
        self._encode = Encoder(distributions)
        self._rungs = rungs
        self._elsewhere = elsewhere
        self._hyperparameters: _Hyperparameters | None = None
        self._fitted_to = 0
        self._rows: dict[int, Floats] = {}

    def fit(self, trials: Iterable[TrialProgress]) -> Posterior:
        """What is known now.

        Length scale and share are fitted again when there are a fifth more trials than last time.
        """
        known = list(trials)
        seen = [trial for trial in known if trial.step >= self._rungs[0]]
        pending = [
            trial.params for trial in known if trial.step < self._rungs[0] and trial.state == "running"
        ]
        if not seen and not self._elsewhere:
            raise ValueError("no trial has reached the first rung")
        drift = Drift.of(known, self._rungs)
        levels = [bisect_right(self._rungs, trial.step) - 1 for trial in seen]
        reached = [trial.value(self._rungs[level]) for trial, level in zip(seen, levels, strict=True)]
        y = bounded(np.array(reached, float) + np.array(drift.shift)[levels])
        noise = np.array(drift.variance)[levels] + 1e-6
        x = np.array([self._encoded(trial) for trial in seen])
        best = float(np.quantile(y, INCUMBENT_QUANTILE)) if seen else None
        many = len(self._elsewhere) + len(y)
        if len(y) > MOST_KNOWN:
            chosen = _telling(y)
            seen, x, y, noise = [seen[place] for place in chosen], x[chosen], y[chosen], noise[chosen]
        if self._elsewhere:
            x, y, noise = self._with_elsewhere(x, y, noise)
        if self._hyperparameters is None or many >= 1.2 * self._fitted_to + 4:
            recent = slice(max(len(y) - MOST_TO_FIT, 0), None)
            self._hyperparameters = _most_likely(x[recent], y[recent], noise[recent])
            self._fitted_to = many
        numbers = [trial.number for trial in seen]
        posterior = Posterior(self._encode, x, y, noise, numbers, self._hyperparameters, best=best)
        return posterior.believing(pending) if pending else posterior

    def _with_elsewhere(self, x: Floats, y: Floats, noise: Floats) -> tuple[Floats, Floats, Floats]:
        """Put what is known from another study before this one's trials, on this one's scale."""
        others = on_the_scale_of(y, self._elsewhere)
        encoded = self._encode([known.params for known in self._elsewhere])
        doubt = np.full(len(others), ELSEWHERE_DOUBT * float(others.var()) + 1e-6)
        return (
            np.concatenate([encoded, x.reshape(len(y), encoded.shape[1])]),
            np.concatenate([others, y]),
            np.concatenate([doubt, noise]),
        )

    def _encoded(self, trial: TrialProgress) -> Floats:
        if trial.number not in self._rows:
            self._rows[trial.number] = self._encode([trial.params])[0]
        return self._rows[trial.number]


def _telling(y: Floats) -> NDArray[np.intp]:
    """The places of :data:`MOST_KNOWN` trials: the best quarter, and others evenly over the study's course.

    Beside the best ones the others keep mean and spread near those of all.
    """
    best, others = np.split(np.argsort(y, kind="stable"), [MOST_KNOWN // 4])
    even = np.linspace(0, len(others) - 1, MOST_KNOWN - len(best)).astype(np.intp)
    return np.sort(np.concatenate([best, np.sort(others)[even]]))


class Posterior:
    """The model given some trials. Made by :meth:`Surrogate.fit`."""

    def __init__(
        self,
        encode: Encoder,
        x: Floats,
        y: Floats,
        noise: Floats,
        numbers: list[int],
        given: _Hyperparameters,
        *,
        best: float | None = None,
    ) -> None:
        self._encode, self._x, self._y, self._noise = encode, x, y, noise
        self._numbers, self._given = numbers, given
        self._first = len(x) - len(numbers)
        self._mean, self._variance = float(y.mean()), float(y.var()) + 1e-6
        self._best = float(np.quantile(y, INCUMBENT_QUANTILE)) if best is None else best
        covariance = self._variance * (
            given.share * _correlation(x, x, given.length) + (1 - given.share) * np.eye(len(x))
        )
        self._covariance = covariance
        self._lower: Floats = np.asarray(np.linalg.cholesky(covariance + np.diag(noise)))
        self._weights = _solve(self._lower, y - self._mean)

    def believing(self, pending: Sequence[Mapping[str, Any]]) -> Posterior:
        """As if configurations that train now had come to what is expected, so that others are drawn."""
        encoded = self._encode(pending)
        mean = self._mean + self._cross(encoded) @ self._weights
        believed = np.full(len(mean), float(self._noise.max()))
        return Posterior(
            self._encode,
            np.concatenate([encoded, self._x]),
            np.concatenate([mean, self._y]),
            np.concatenate([believed, self._noise]),
            self._numbers,
            self._given,
            best=self._best,
        )

    def predict(self, params: Sequence[Mapping[str, Any]]) -> tuple[Floats, Floats]:
        """Mean and standard deviation of the final scores of configurations that have not begun."""
        cross = self._cross(self._encode(params))
        known = np.linalg.solve(self._lower, cross.T)
        deviation = np.sqrt(np.maximum(self._variance - (known**2).sum(axis=0), 1e-10))
        return self._mean + cross @ self._weights, deviation

    def _cross(self, encoded: Floats) -> Floats:
        return self._variance * self._given.share * _correlation(encoded, self._x, self._given.length)

    def expected_improvement(self, params: Sequence[Mapping[str, Any]], best: float | None = None) -> Floats:
        """By how much each configuration that has not begun may be expected to beat a score.

        Parameters
        ----------
        best : the score to be beaten; None: that of the best ones
        """
        return expected_improvement(self._best if best is None else best, *self.predict(params))

    def improvement_of_trials(self, best: float | None = None) -> dict[int, float]:
        """The expected improvement of every trial that reached a rung, by number.

        Parameters
        ----------
        best : the score to be beaten; None: that of the best ones
        """
        rows = self._covariance[self._first :]
        mean = self._mean + rows @ self._weights
        known = np.linalg.solve(self._lower, rows.T)
        prior = np.diag(self._covariance)[self._first :]
        deviation = np.sqrt(np.maximum(prior - (known**2).sum(axis=0), 1e-10))
        gains = expected_improvement(self._best if best is None else best, mean, deviation)
        return dict(zip(self._numbers, map(float, gains), strict=True))


def expected_improvement(best: float, mean: Floats, deviation: Floats) -> Floats:
    """E[max(best − score, 0)] of normal scores."""
    z = (best - mean) / deviation
    below = 0.5 * (1 + np.array([math.erf(each) for each in (z / math.sqrt(2)).tolist()]))
    density = np.exp(-0.5 * z**2) / math.sqrt(2 * math.pi)
    return np.asarray(deviation * (z * below + density))


def _correlation(a: Floats, b: Floats, length: float) -> Floats:
    return np.asarray(np.exp(-0.5 * _squared_distances(a, b) / length**2))


def _squared_distances(a: Floats, b: Floats) -> Floats:
    squares = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1)[None] - 2 * a @ b.T
    return np.asarray(np.maximum(squares, 0.0))


def _solve(lower: Floats, right: Floats) -> Floats:
    return np.asarray(np.linalg.solve(lower.T, np.linalg.solve(lower, right)))


def _most_likely(x: Floats, y: Floats, noise: Floats) -> _Hyperparameters:
    """The length scale and share of a grid under which the scores are most probable."""
    variance, residual = float(y.var()) + 1e-6, y - y.mean()
    distances = _squared_distances(x, x)
    best: tuple[float, _Hyperparameters] | None = None
    for length in LENGTH_SCALES:
        correlation = np.exp(-0.5 * distances / length**2)
        for share in SHARES:
            covariance = variance * (share * correlation + (1 - share) * np.eye(len(x))) + np.diag(noise)
            lower = np.linalg.cholesky(covariance)
            scaled = np.linalg.solve(lower, residual)
            likelihood = float(-0.5 * scaled @ scaled - np.log(np.diag(lower)).sum())
            if best is None or likelihood > best[0]:
                best = likelihood, _Hyperparameters(length, share)
    assert best is not None
    return best[1]
