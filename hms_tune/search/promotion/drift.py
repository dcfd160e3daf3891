"""How far estimates move between a rung and the end of a trial."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from hms_tune.search.promotion.progress import TrialProgress

Floats = NDArray[np.float64]

PRIOR_TRIALS = 4
"""How many trials that went on the prior of :class:`Drift` is worth."""

PRIOR_SPREAD = 0.3
"""Standard deviation of a move between two rungs before any is seen, over that of the trials' estimates."""


@dataclass(frozen=True, slots=True)
class Drift:
    """How estimates move from each rung to the end, learnt from the trials that went on.

    ``shift`` is the mean and ``variance`` the variance of the move; both are 0 at the last rung.
    """

    shift: tuple[float, ...]
    variance: tuple[float, ...]

    @classmethod
    def of(cls, trials: Iterable[TrialProgress], rungs: Sequence[int]) -> Drift:
        """Chain the moves between neighbouring rungs; a prior stands for a few trials."""
        known = [trial for trial in trials if trial.step >= rungs[0]]
        first = bounded(np.array([trial.value(rungs[0]) for trial in known], float))
        prior = (PRIOR_SPREAD * float(first.std())) ** 2 if len(first) > 1 else 0.0
        shift, variance = [0.0], [0.0]
        for low, high in reversed(list(pairwise(rungs))):
            reached = [trial for trial in known if trial.step >= low]
            before = np.array([trial.value(low) for trial in reached], float)
            usual = before <= bounded(before)
            moves = np.array(
                [
                    trial.value(high) - start
                    for trial, start, is_usual in zip(reached, before.tolist(), usual.tolist(), strict=True)
                    if trial.step >= high and is_usual  # how far a diverged trial comes back tells nothing
                ],
                float,
            )
            moves = moves[np.isfinite(moves)]
            mean, spread = 0.0, prior
            if len(moves) >= 3:
                mean = float(moves.mean())
                squares = float(((moves - mean) ** 2).sum())
                spread = (PRIOR_TRIALS * prior + squares) / (PRIOR_TRIALS + len(moves) - 1)
            shift.append(mean + shift[-1])
            variance.append(spread + variance[-1])
        return cls(tuple(reversed(shift)), tuple(reversed(variance)))


def bounded(estimates: Floats) -> Floats:
    """Estimates with no one further above the median than twice the best is below it.

    How bad a bad trial is tells nothing about the good ones.
    """
    finite = estimates[np.isfinite(estimates)]
    if not len(finite):
        return np.zeros_like(estimates)
    middle = float(np.median(finite))
    return np.asarray(np.minimum(estimates, middle + 2 * (middle - float(finite.min())) + 1e-9))
