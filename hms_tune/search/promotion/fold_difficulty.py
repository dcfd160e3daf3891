"""Estimates that compare: how hard the folds seen so far are, taken out of a partial estimate.

Folds differ: one may be easy for every configuration, so an estimate after one fold and a score over all of
them are on different scales. How hard a fold is, other trials tell best. Before any is complete there is the
KL of the class prior: of predicting the mean of the fold's training rows on its validation rows.
``benchmarks/search.py choose`` compares the ways.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Estimate = TypeVar("Estimate", float, NDArray[np.float64])


ENOUGH_COMPLETE = 5


def fold_difficulty(prior_kl: Sequence[float], complete: Sequence[Sequence[float]]) -> list[float]:
    """How hard each fold is: the mean KL of complete trials there, or the class prior's while they are few.

    Parameters
    ----------
    prior_kl : the class prior's KL in every fold that a trial trains
    complete : the KL of every fold, for each complete trial
    """
    if len(complete) < ENOUGH_COMPLETE:
        return list(prior_kl)
    return [float(np.mean(values)) for values in zip(*complete, strict=True)]


def comparable_estimate(estimate: Estimate, fold: int, difficulty: Sequence[float]) -> Estimate:
    """A partial estimate on the scale of a full cross-validation.

    Parameters
    ----------
    estimate : the mean of the best KL of every finished fold and of the current one
    fold : the current fold, from 0
    difficulty : of every fold that the trial trains, as :func:`fold_difficulty` has it

    Returns
    -------
    what the estimate would be if all folds were as hard as those seen; at the last fold the estimate itself
    """
    seen = difficulty[: fold + 1]
    return estimate * (len(seen) * sum(difficulty)) / (len(difficulty) * sum(seen))
