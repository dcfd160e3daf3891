"""Latent mixtures of patterns, and the raters who vote on them.

124 experts of similar skill differ in their thresholds, and those explain almost all of their disagreement
(Jing et al., Neurology 2023;100(17):e1737). So a window has a latent mixture of the six classes, each rater a
bias per class, and a vote is a draw from the mixture as that rater tilts it.

How many votes a window got depends on the campaign it was labelled in, and campaigns chose their windows: few
votes were mostly spent on clear seizures, many on what is hard. The constants below are fitted to the real
tables: which class is mistaken for which, class shares by number of votes, how many windows are idealized,
proto and edge cases. ``python benchmarks/synthetic.py`` holds the outcome against them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hms_tune.data.schema import CLASSES

N_CLASSES = len(CLASSES)
SEIZURE, LPD, GPD, LRDA, GRDA, OTHER = range(N_CLASSES)

N_RATERS = 124
_BIAS_SPREAD = 0.45


@dataclass(frozen=True, slots=True)
class Campaign:
    """Windows that were labelled for one purpose.

    Attributes
    ----------
    share : of all EEGs
    dominant : float64 (6,), how often each class leads the mixture of an EEG
    idealized : float64 (6,), by leading class: share of EEGs that are clear to almost everyone
    clear : range of the leading class's share in those
    proto, edge : shares of EEGs that are half "other", and split between two patterns
    """

    share: float
    dominant: NDArray[np.float64]
    idealized: NDArray[np.float64]
    clear: tuple[float, float]
    proto: float
    edge: float

    def draw_mixture(self, dominant: int, rng: np.random.Generator) -> NDArray[np.float64]:
        """A mixture around ``dominant``, float64 (6,): idealized, proto, an edge of two, or in between."""
        kind = rng.random() - self.idealized[dominant]
        spread = rng.dirichlet(np.maximum(_SPREAD * _MISTAKEN[dominant], 1e-3))
        if kind < 0:
            share = rng.uniform(*self.clear)
        elif kind < self.proto + self.edge:
            share = rng.uniform(0.44, 0.56)
            proto = kind < self.proto and dominant != OTHER
            partner = OTHER if proto else _second_pattern(dominant, rng)
            spread = 0.1 * spread
            spread[partner] += 0.9
        else:
            share = 0.40 + 0.47 * rng.beta(1.2, 1.0)
        spread[dominant] = 0
        mixture = (1 - share) * spread / spread.sum()
        mixture[dominant] = share
        return _floored(mixture)

    def draw_vote_count(self, rng: np.random.Generator) -> int:
        """Votes that a window of this campaign gets."""
        if self is MANY:
            if rng.random() < _ONE_OR_TWO:
                return int(rng.integers(1, 3))
            return int(rng.binomial(18, rng.beta(1.5, 3.0)) + 10)
        return 3 if rng.random() < _EXACTLY_THREE else int(rng.integers(4, 10))


FEW = Campaign(
    share=0.572,
    dominant=np.array([0.456, 0.116, 0.046, 0.049, 0.125, 0.208]),
    idealized=np.full(N_CLASSES, 0.8),
    clear=(0.93, 0.99),
    proto=0.01,
    edge=0.04,
)
MANY = Campaign(
    share=0.428,
    dominant=np.array([0.014, 0.169, 0.110, 0.029, 0.033, 0.645]),
    idealized=np.array([0.64, 0.50, 0.43, 0.19, 0.48, 0.20]),
    clear=(0.90, 0.99),
    proto=0.01,
    edge=0.12,
)
CAMPAIGNS = (FEW, MANY)
"""Windows of 3–9 votes; and of 10–28, among them those that only one or two experts came to see."""

_EXACTLY_THREE = 0.875  # of the first
_ONE_OR_TWO = 0.187  # of the second

# By leading class: where the rest of a mixture goes, and how evenly (a Dirichlet's total).
_MISTAKEN = np.array(
    [
        [0.000, 0.279, 0.229, 0.316, 0.051, 0.125],
        [0.241, 0.000, 0.121, 0.258, 0.015, 0.365],
        [0.273, 0.181, 0.000, 0.012, 0.130, 0.405],
        [0.246, 0.271, 0.005, 0.000, 0.130, 0.347],
        [0.069, 0.010, 0.126, 0.160, 0.000, 0.636],
        [0.076, 0.228, 0.164, 0.232, 0.300, 0.000],
    ]
)
_SPREAD = 3.0
_DRIFT = 0.25


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


def draw_campaign(rng: np.random.Generator) -> Campaign:
    """The campaign that an EEG was labelled in."""
    return FEW if rng.random() < FEW.share else MANY


def drifted(mixture: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """The same brain at another hour: a mixture near the one given, float64 (6,)."""
    return _floored(mixture * np.exp(rng.normal(0, _DRIFT, N_CLASSES)))


def _floored(mixture: NDArray[np.float64]) -> NDArray[np.float64]:
    """No class is ever wholly out of the question."""
    floored = np.maximum(mixture / mixture.sum(), 1e-3)
    return np.asarray(floored / floored.sum())


def _second_pattern(dominant: int, rng: np.random.Generator) -> int:
    named = _MISTAKEN[dominant].copy()
    named[OTHER] = 0
    return int(rng.choice(N_CLASSES, p=named / named.sum()))
