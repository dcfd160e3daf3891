"""The competition's metric."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hms_tune.data.labels import HIGH_VOTES
from hms_tune.data.schema import CLASSES
from hms_tune.training.events import OutOfFold

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


VOTE_BINS = ((1, 2), (3, 5), (6, HIGH_VOTES - 1), (HIGH_VOTES, 10**6))


@dataclass(frozen=True, slots=True)
class Score:
    """A mean KL over some rows, with its interval over patients where there are two or more."""

    name: str
    kl: float
    rows: int
    patients: int
    interval: tuple[float, float] | None


def score(name: str, predictions: OutOfFold, chosen: NDArray[np.bool_] | None = None) -> Score | None:
    """The score over the chosen rows; None if there are none."""
    chosen = np.ones(len(predictions.row), dtype=bool) if chosen is None else chosen
    if not chosen.any():
        return None
    kl = kl_per_row(predictions.targets[chosen], predictions.probabilities[chosen])
    patients = predictions.patient_id[chosen]
    return Score(
        name, float(kl.mean()), int(chosen.sum()), len(np.unique(patients)), patient_interval(kl, patients)
    )


def scores_by_votes(predictions: OutOfFold) -> list[Score]:
    """Scores of rows with few and with many votes."""
    found = []
    for low, high in VOTE_BINS:
        name = f"{low}–{high} votes" if high < 10**6 else f"≥{low} votes"
        chosen = (predictions.total_votes >= low) & (predictions.total_votes <= high)
        found.append(score(name, predictions, chosen))
    return [each for each in found if each is not None]


def scores_by_class(predictions: OutOfFold) -> list[Score]:
    """Scores by the class with the most votes."""
    consensus = predictions.targets.argmax(axis=1)
    found = [score(name, predictions, consensus == place) for place, name in enumerate(CLASSES)]
    return [each for each in found if each is not None]


RELIABILITY_BINS = 10


@dataclass(frozen=True, slots=True)
class Reliability:
    """How well predicted probabilities are kept, in bins of equal width; empty bins are left out.

    Attributes
    ----------
    predicted, voted : float64 arrays, shape (n_bins,): mean probability, and mean share of the votes
    count : int64 array, shape (n_bins,): predictions in each bin
    """

    predicted: NDArray[np.float64]
    voted: NDArray[np.float64]
    count: NDArray[np.int64]

    @property
    def mean_gap(self) -> float:
        """Distance of both, weighed by the predictions of each bin."""
        return float(np.sum(self.count * np.abs(self.predicted - self.voted)) / self.count.sum())


def reliability(predictions: OutOfFold) -> Reliability:
    """Predicted probabilities against shares of votes, over all classes."""
    predicted = predictions.probabilities.ravel().astype(np.float64)
    voted = predictions.targets.ravel().astype(np.float64)
    place = np.minimum((predicted * RELIABILITY_BINS).astype(np.int64), RELIABILITY_BINS - 1)
    count = np.bincount(place, minlength=RELIABILITY_BINS)
    kept = count > 0
    sums = (np.bincount(place, weights=each, minlength=RELIABILITY_BINS) for each in (predicted, voted))
    means = [total[kept] / count[kept] for total in sums]
    return Reliability(means[0], means[1], count[kept])


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
