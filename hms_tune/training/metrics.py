"""The competition's metric."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

CLIP = 1e-15
"""Predictions are clipped to [CLIP, 1 − CLIP] and not renormalised, as the competition's scorer does."""


def kl_per_row(targets: NDArray[np.floating], probabilities: NDArray[np.floating]) -> NDArray[np.float64]:
    """Kullback–Leibler divergence of each prediction from its target.

    Parameters
    ----------
    targets : array, shape (n_rows, n_classes), each row summing to 1
    probabilities : array of the same shape

    Returns
    -------
    float64 array, shape (n_rows,), nats; a term whose target is 0 counts 0
    """
    target = np.asarray(targets, dtype=np.float64)
    prediction = np.clip(np.asarray(probabilities, dtype=np.float64), CLIP, 1.0 - CLIP)
    ratio = np.divide(target, prediction, out=np.ones_like(target), where=target > 0)
    per_row: NDArray[np.float64] = np.sum(target * np.log(ratio), axis=1)
    return per_row


def kl_divergence(targets: NDArray[np.floating], probabilities: NDArray[np.floating]) -> float:
    """Mean of :func:`kl_per_row`; NaN when there are no rows."""
    return float(kl_per_row(targets, probabilities).mean()) if len(targets) else float("nan")
