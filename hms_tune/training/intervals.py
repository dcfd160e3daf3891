"""How sure a score is, when rows of one patient are alike."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

REPEATS = 2000
COVERAGE = 0.95


def patient_interval(
    values: NDArray[np.floating], patient_id: NDArray[np.int64], *, repeats: int = REPEATS, seed: int = 0
) -> tuple[float, float] | None:
    """Bootstrap interval of a mean over rows, drawing patients instead of rows.

    Rows of one patient are not independent, so an interval over rows would be too narrow.

    Parameters
    ----------
    values : array, shape (n_rows,), for example the KL of each row
    patient_id : int64 array, shape (n_rows,)
    repeats : how many times patients are drawn
    seed : of the draws; equal seeds give equal intervals

    Returns
    -------
    The percentiles that enclose 95 %, or None with fewer than two patients
    """
    patients, place = np.unique(patient_id, return_inverse=True)
    if len(patients) < 2:
        return None
    sums = np.bincount(place, weights=np.asarray(values, dtype=np.float64))
    rows = np.bincount(place)
    drawn = np.random.default_rng(seed).integers(0, len(patients), size=(repeats, len(patients)))
    means = sums[drawn].sum(axis=1) / rows[drawn].sum(axis=1)
    tail = 50.0 * (1.0 - COVERAGE)
    low, high = np.percentile(means, [tail, 100.0 - tail])
    return float(low), float(high)
