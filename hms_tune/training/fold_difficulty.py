"""Estimates that compare: how hard the folds seen so far are, taken out of a partial estimate.

Folds differ: one may be easy for every configuration, so an estimate after one fold and a score over all of
them are on different scales. What is known before any training is the KL of the class prior in each fold,
that is of predicting the mean of the fold's training rows on its validation rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Estimate = TypeVar("Estimate", float, NDArray[np.float64])


def comparable_estimate(estimate: Estimate, fold: int, prior_kl: Sequence[float]) -> Estimate:
    """A partial estimate on the scale of a full cross-validation.

    Parameters
    ----------
    estimate : the mean of the best KL of every finished fold and of the current one
    fold : the current fold, from 0
    prior_kl : the class prior's KL in every fold that the trial trains

    Returns
    -------
    what the estimate would be if all folds were as hard as those seen; at the last fold the estimate itself
    """
    seen = prior_kl[: fold + 1]
    return estimate * (len(seen) * sum(prior_kl)) / (len(prior_kl) * sum(seen))
