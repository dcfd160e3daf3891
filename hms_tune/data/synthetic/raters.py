"""Latent mixtures of patterns, and the raters who vote on them.

124 experts of similar skill differ in their thresholds, and those explain almost all of their disagreement
(Jing et al., Neurology 2023;100(17):e1737). So a window has a latent mixture of the six classes, each rater a
bias per class, and a vote is a draw from the mixture as that rater tilts it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

N_CLASSES = 6
SEIZURE, LPD, GPD, LRDA, GRDA, OTHER = range(N_CLASSES)

CLASS_SHARES = np.array([0.17, 0.16, 0.14, 0.12, 0.14, 0.27])
"""How often each class is the dominant one of an EEG."""

N_RATERS = 124
_BIAS_SPREAD = 0.45

# P(second rater's class | first rater's) of windows with at least ten votes: what a class is mistaken for.
_CONFUSION = np.array(
    [
        [0.40, 0.16, 0.13, 0.07, 0.04, 0.19],
        [0.05, 0.62, 0.05, 0.06, 0.02, 0.20],
        [0.06, 0.08, 0.57, 0.01, 0.05, 0.22],
        [0.05, 0.16, 0.02, 0.32, 0.08, 0.37],
        [0.03, 0.04, 0.07, 0.06, 0.39, 0.41],
        [0.03, 0.09, 0.06, 0.07, 0.09, 0.66],
    ]
)

# Shares of EEGs, and the range of the dominant class's share in each.
_IDEALIZED, _BETWEEN, _PROTO = 0.44, 0.40, 0.10  # the rest are edge cases


@dataclass(frozen=True, slots=True)
class RaterPool:
    """The experts of a competition.

    Attributes
    ----------
    bias : float64 (n_raters, 6), added to the logarithm of the mixture
    """

    bias: NDArray[np.float64]

    @classmethod
    def draw(cls, rng: np.random.Generator) -> RaterPool:
        """124 raters with individual thresholds."""
        return cls(rng.normal(0, _BIAS_SPREAD, (N_RATERS, N_CLASSES)))

    def probabilities(self, mixture: NDArray[np.float64]) -> NDArray[np.float64]:
        """P(class) of each rater, float64 (n_raters, 6), for a window of latent ``mixture`` (6,)."""
        tilted = mixture * np.exp(self.bias)
        return np.asarray(tilted / tilted.sum(axis=1, keepdims=True))

    def expected(self, mixture: NDArray[np.float64]) -> NDArray[np.float64]:
        """Mean over all raters, float64 (6,): what an infinite panel would say."""
        return np.asarray(self.probabilities(mixture).mean(axis=0))

    def votes(
        self, mixture: NDArray[np.float64], n_votes: int, rng: np.random.Generator
    ) -> NDArray[np.int64]:
        """Votes of ``n_votes`` different raters, int64 (6,)."""
        panel = rng.choice(len(self.bias), n_votes, replace=False)
        cumulative = self.probabilities(mixture)[panel].cumsum(axis=1)
        chosen = (rng.random((n_votes, 1)) > cumulative).sum(axis=1).clip(max=N_CLASSES - 1)
        return np.bincount(chosen, minlength=N_CLASSES).astype(np.int64)


def draw_mixture(dominant: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """A mixture led by ``dominant``: idealized, in between, proto (half "other"), or an edge of two."""
    kind = rng.random()
    others = _CONFUSION[dominant].copy()
    others[dominant] = 0
    if kind < _IDEALIZED:
        share = rng.uniform(0.86, 0.97)
    elif kind < _IDEALIZED + _BETWEEN:
        share = rng.uniform(0.48, 0.86)
    else:
        share = rng.uniform(0.42, 0.55)
        proto = kind < _IDEALIZED + _BETWEEN + _PROTO and dominant != OTHER
        partner = OTHER if proto else _second_pattern(dominant, others, rng)
        others = np.where(np.arange(N_CLASSES) == partner, 12.0, others)
    spread = rng.dirichlet(np.maximum(6 * others / others.sum(), 0.02))
    spread[dominant] = 0
    mixture = (1 - share) * spread / spread.sum()
    mixture[dominant] = share
    mixture = np.maximum(mixture, 1e-3)
    return np.asarray(mixture / mixture.sum())


def draw_vote_count(rng: np.random.Generator) -> int:
    """Votes a window gets: half of all windows three, a third ten or more, 28 at most; whatever its class."""
    kind = rng.random()
    if kind < 0.50:
        return 3
    if kind < 0.60:
        return int(rng.integers(1, 3))
    if kind < 0.67:
        return int(rng.integers(4, 10))
    return int(rng.binomial(18, 0.3) + 10)


def _second_pattern(dominant: int, others: NDArray[np.float64], rng: np.random.Generator) -> int:
    named = others.copy()
    named[OTHER] = 0
    return int(rng.choice(N_CLASSES, p=named / named.sum()))
