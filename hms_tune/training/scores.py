"""The competition's metric, and what a trial's out-of-fold predictions are worth by it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy
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


@dataclass(frozen=True, slots=True)
class Confusion:
    """The class with the most votes against the likeliest class.

    Parameters
    ----------
    voted, likeliest : int64 (n_rows,), places in :data:`~hms_tune.data.schema.CLASSES`
    counts : int64 (6, 6), rows of each voted class (first axis) and likeliest class
    shares : float64 (6, 6), the same as shares of the voted class
    """

    voted: NDArray[np.int64]
    likeliest: NDArray[np.int64]
    counts: NDArray[np.int64]
    shares: NDArray[np.float64]


def confusion(predictions: OutOfFold) -> Confusion:
    """Count which classes are taken for which."""
    voted, likeliest = predictions.targets.argmax(axis=1), predictions.probabilities.argmax(axis=1)
    counts = np.zeros((len(CLASSES), len(CLASSES)), dtype=np.int64)
    np.add.at(counts, (voted, likeliest), 1)
    return Confusion(voted, likeliest, counts, counts / np.maximum(counts.sum(axis=1, keepdims=True), 1))


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

MOST_STUDENTS = 4.0
"""How many times as far as Student's an interval may reach."""

ROUNDING = 1e-9
"""A draw's standard error below this share of the sample's is rounding: one patient drawn again and again."""

FEW_PATIENTS = 20
"""Over fewer patients an interval says little; whoever shows it says that they are few."""


def interval_in_words(interval: tuple[float, float] | None, patients: int) -> str:
    """In brackets, to follow a score; that patients are few is said where they are."""
    if interval is None:
        return ""
    few = ", which are few" if patients < FEW_PATIENTS else ""
    return f" (95 % interval {interval[0]:.3f}–{interval[1]:.3f} over {patients} patients{few})"


def patient_interval(
    values: NDArray[np.floating], patient_id: NDArray[np.int64], *, repeats: int = REPEATS, seed: int = 0
) -> tuple[float, float] | None:
    """Interval of a positive mean over rows, such as a KL, for patients like these.

    Rows of one patient are not independent, so patients are drawn. Few patients seldom hold the extreme ones,
    and an interval of plain percentiles is then far too narrow. So the logarithm of the mean is studentized:
    each draw is divided by its own standard error (the bootstrap-t of Efron, 1982), and the interval is never
    narrower than Student's. ``benchmarks/honesty.py`` compares it with others.

    Parameters
    ----------
    values : array, shape (n_rows,), at least 0
    patient_id : int64 array, shape (n_rows,)
    repeats : how many times patients are drawn
    seed : of the draws; equal seeds give equal intervals

    Returns
    -------
    What encloses the mean with 95 % confidence, or None with fewer than two patients
    """
    return interval_of_sums(*_by_patient(values, patient_id), repeats=repeats, seed=seed)


def interval_of_sums(
    sums: NDArray[np.float64], rows: NDArray[np.float64], *, repeats: int = REPEATS, seed: int = 0
) -> tuple[float, float] | None:
    """:func:`patient_interval` by the sum of the values and the rows, or their weight, of each patient."""
    if len(rows) < 2:
        return None
    mean, error = _mean_and_error(sums, rows)
    if mean <= 0.0 or error == 0.0:
        return float(mean), float(mean)
    means, errors = _drawn(sums, rows, error, repeats, seed)
    below, above = _steps(np.log(means / mean) / (errors / means), len(rows))
    return float(mean * np.exp(-above * error / mean)), float(mean * np.exp(-below * error / mean))


def difference_interval(
    first: NDArray[np.floating],
    second: NDArray[np.floating],
    patient_id: NDArray[np.int64],
    *,
    repeats: int = REPEATS,
    seed: int = 0,
) -> tuple[float, float] | None:
    """Interval of the mean of ``first − second`` over the same rows, as :func:`patient_interval` finds it.

    What makes a patient hard for one model makes it hard for another: their difference over the same
    patients is known far better than either.

    Returns
    -------
    What encloses the difference with 95 % confidence, or None with fewer than two patients
    """
    sums, rows = _by_patient(np.asarray(first, np.float64) - np.asarray(second, np.float64), patient_id)
    if len(rows) < 2:
        return None
    mean, error = _mean_and_error(sums, rows)
    means, errors = _drawn(sums, rows, error, repeats, seed)
    below, above = _steps((means - mean) / errors, len(rows))
    return float(mean - above * error), float(mean - below * error)


def _by_patient(
    values: NDArray[np.floating], patient_id: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sum of the values, and number of rows, of each patient."""
    _, place = np.unique(patient_id, return_inverse=True)
    sums: NDArray[np.float64] = np.bincount(place, weights=np.asarray(values, np.float64)).astype(np.float64)
    return sums, np.bincount(place).astype(np.float64)


def _mean_and_error(
    sums: NDArray[np.float64], rows: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean over rows and its standard error over patients: that of a ratio of two sums (last axis)."""
    patients = sums.shape[-1]
    mean = sums.sum(axis=-1) / rows.sum(axis=-1)
    apart = sums - mean[..., None] * rows
    error = np.sqrt(patients / (patients - 1) * np.square(apart).sum(axis=-1)) / rows.sum(axis=-1)
    return mean, error


def _drawn(
    sums: NDArray[np.float64],
    rows: NDArray[np.float64],
    error: NDArray[np.float64],
    repeats: int,
    seed: int,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Means and standard errors of so many draws of patients, less those that have no error.

    Parameters
    ----------
    error : standard error of the sample, which says what is rounding

    Returns
    -------
    Both float64, shape (at most repeats,)
    """
    drawn = np.random.default_rng(seed).integers(0, len(rows), size=(repeats, len(rows)))
    means, errors = _mean_and_error(sums[drawn], rows[drawn])
    usable = errors > ROUNDING * error
    return means[usable], errors[usable]


def _steps(distances: NDArray[np.float64], patients: int) -> tuple[float, float]:
    """How many standard errors the interval reaches below and above: of the draws, or of Student's t."""
    tail = 0.5 * (1.0 - COVERAGE)
    student = float(scipy.special.stdtrit(patients - 1, 1.0 - tail))
    below, above = np.quantile(distances, [tail, 1.0 - tail]) if len(distances) else (-student, student)
    most = MOST_STUDENTS * student  # of three patients a draw may hold nearly equal ones
    return max(min(float(below), -student), -most), min(max(float(above), student), most)
