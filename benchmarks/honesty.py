"""How often stated intervals hold the truth, where it is known.

    python benchmarks/honesty.py            # a minute on one core

The KL of each patient of the configurations in ``benchmarks/results/search_reporting.npz`` (trained by
``benchmarks/search.py tabulate``; none of them chose an interval) is taken as the whole population: its mean
is the truth. So many patients are drawn from it with replacement, again and again, and each kind of interval
is asked whether it holds the truth. ``hms_tune.training.scores.patient_interval`` was chosen on
``search_choosing.npz``.

Then so many of the configurations are taken for a search that saw two of three patients of each fold. These
choose each fold's epoch and the best configuration, and the third patients say what the choice is worth.
:func:`hms_tune.training.optimism.correction.corrected` was chosen on ``search_choosing.npz``, too. Writes
``benchmarks/results/honesty.md``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from machine import table, write_result
from numpy.typing import NDArray
from scipy.special import stdtrit

from hms_tune.training.events import EpochScores
from hms_tune.training.optimism.correction import corrected
from hms_tune.training.scores import interval_of_sums, patient_interval

RESULTS = Path(__file__).parent / "results"
PATIENTS = (3, 4, 6, 8, 12, 20, 45)
TRIALS = (1, 8, 30)
"""Configurations of a search."""

Floats = NDArray[np.float64]
Interval = Callable[[Floats, Floats], tuple[float, float]]


def percentiles(sums: Floats, rows: Floats) -> tuple[float, float]:
    """The plain percentile bootstrap over patients."""
    drawn = np.random.default_rng(0).integers(0, len(rows), size=(2000, len(rows)))
    means = sums[drawn].sum(axis=1) / rows[drawn].sum(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def student(sums: Floats, rows: Floats) -> tuple[float, float]:
    """Student's interval of a ratio of sums."""
    mean, n = sums.sum() / rows.sum(), len(rows)
    error = np.sqrt(n / (n - 1) * np.square(sums - mean * rows).sum()) / rows.sum()
    reach = float(stdtrit(n - 1, 0.975)) * error
    return float(mean - reach), float(mean + reach)


def ours(sums: Floats, rows: Floats) -> tuple[float, float]:
    """What the product states. One value for each patient's rows stands for all of them."""
    patients = np.repeat(np.arange(len(rows)), rows.astype(int))
    found = patient_interval(np.repeat(sums / rows, rows.astype(int)), patients)
    assert found is not None
    return found


KINDS: dict[str, Interval] = {"percentiles": percentiles, "Student": student, "stated by hms-tune": ours}


def coverage(kl: Floats, rows: Floats, patients: int, repeats: int) -> dict[str, tuple[float, float]]:
    """By kind: how often the interval held the truth, and its median width.

    Parameters
    ----------
    kl : shape (n_configurations, n_patients)
    rows : shape (n_patients,)
    """
    rng = np.random.default_rng(patients)
    held: dict[str, list[bool]] = {name: [] for name in KINDS}
    width: dict[str, list[float]] = {name: [] for name in KINDS}
    for _ in range(repeats):
        one, drawn = rng.integers(len(kl)), rng.integers(kl.shape[1], size=patients)
        truth = float((kl[one] * rows).sum() / rows.sum())
        for name, interval in KINDS.items():
            low, high = interval(kl[one, drawn] * rows[drawn], rows[drawn])
            held[name].append(low <= truth <= high)
            width[name].append(high - low)
    return {name: (float(np.mean(held[name])), float(np.median(width[name]))) for name in KINDS}


@dataclass(frozen=True, slots=True)
class Table:
    """What is known of configurations: KL by epoch and patient, and each patient's rows and fold.

    ``kl`` is float64 (n_configurations, n_epochs, n_patients).
    """

    kl: Floats
    rows: Floats
    fold: NDArray[np.int64]

    def of_folds(self, number: int, patients: NDArray[np.bool_]) -> Floats:
        """A configuration's KL on some patients: float64 (n_folds, n_epochs)."""
        means = [
            np.average(self.kl[number][:, mine], axis=1, weights=self.rows[mine])
            for mine in (patients & (self.fold == fold) for fold in np.unique(self.fold))
        ]
        return np.array(means)

    def interval(self, number: int, patients: NDArray[np.bool_]) -> tuple[float, float]:
        """Of a configuration's mean over folds, each at its best epoch, as the product would state it."""
        sums, weights = np.zeros(len(self.fold)), np.zeros(len(self.fold))
        folds = np.unique(self.fold)
        for fold, epoch in zip(folds, self.of_folds(number, patients).argmin(axis=1), strict=True):
            mine = patients & (self.fold == fold)
            weights[mine] = self.rows[mine] / self.rows[mine].sum() / len(folds)
            sums[mine] = weights[mine] * self.kl[number][epoch, mine]
        found = interval_of_sums(sums[patients], weights[patients])
        assert found is not None
        return found

    def epochs(self, number: int, patients: NDArray[np.bool_]) -> EpochScores:
        """The same as a trial keeps it."""
        return EpochScores(
            fold=self.fold[patients],
            patient_id=np.flatnonzero(patients),
            rows=self.rows[patients].astype(np.int64),
            kl=self.kl[number][:, patients].astype(np.float32),
        )


def searches(table: Table, trials: int, repeats: int) -> tuple[Floats, Floats]:
    """How far the truth is above a search's best score, as chosen and corrected; how often it is held.

    The truth is over half as many patients as the score, and not known better: its own error is added to
    what the intervals say, as if both erred independently.

    Returns
    -------
    off : float64 (n_repeats, 2), truth less chosen and corrected score
    held : share of intervals of the chosen and the corrected score that hold the truth
    """
    rng = np.random.default_rng(trials)
    off, held = [], []
    for _ in range(repeats):
        seen = np.zeros(len(table.fold), bool)
        for fold in np.unique(table.fold):
            patients = np.flatnonzero(table.fold == fold)
            seen[rng.permutation(patients)[: round(2 * len(patients) / 3)]] = True
        taken = rng.choice(len(table.kl), trials, replace=False)
        scores = {number: table.of_folds(number, seen).min(axis=1).mean() for number in taken}
        ranked = sorted(scores, key=lambda number: float(scores[number]))
        best = ranked[0]
        epochs = table.of_folds(best, seen).argmin(axis=1)
        truth = table.of_folds(best, ~seen)[np.arange(len(epochs)), epochs].mean()
        without = corrected([[table.epochs(number, seen)] for number in ranked])
        assert without is not None
        assert without.interval is not None
        stated = np.array([scores[best], without.kl])
        off.append(truth - stated)
        reach = np.log(np.array([table.interval(best, seen), without.interval]) / stated[:, None])
        of_truth = reach[0] * np.sqrt(seen.sum() / (~seen).sum())
        low, high = np.hypot(reach, of_truth).T
        held.append((-low <= np.log(truth / stated)) & (np.log(truth / stated) <= high))
    return np.array(off), np.mean(held, axis=0)


def main() -> int:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("table", type=Path, nargs="?", default=RESULTS / "search_reporting.npz")
    parser.add_argument("--repeats", type=int, default=1000)
    given = parser.parse_args()
    with np.load(given.table) as stored:
        validated = stored["patient_fold"] >= 0
        by_epoch = stored["patient_kl"][:, :, validated].astype(np.float64)
        rows = stored["patient_rows"][validated].astype(np.float64)
        folds = stored["patient_fold"][validated].astype(np.int64)
    by_epoch = by_epoch[np.isfinite(by_epoch).all(axis=(1, 2))]
    kl = by_epoch[:, -1]
    rows_of_table = []
    for patients in PATIENTS:
        found = coverage(kl, rows, patients, given.repeats)
        cells = [f"{share:.1%} ({width:.2f})" for share, width in found.values()]
        rows_of_table.append([str(patients), *cells])
    rows_of_searches = []
    for trials in TRIALS:
        off, held = searches(Table(by_epoch, rows, folds), trials, given.repeats // 2)
        mean, error = off.mean(axis=0), off.std(axis=0) / np.sqrt(len(off))
        cells = [
            f"{mean[place]:+.3f} ± {1.96 * error[place]:.3f}, held {held[place]:.1%}" for place in range(2)
        ]
        rows_of_searches.append([str(trials), *cells])
    lines = [
        "# How often intervals over patients hold the truth",
        "",
        f"`python benchmarks/honesty.py --repeats {given.repeats}` on {given.table.name}: {len(kl)} "
        f"configurations, {kl.shape[1]} patients as the population. Each interval says 95 %; in brackets its "
        "median width.",
        "",
        *table(["patients", *KINDS], rows_of_table),
        "",
        "## The best score of a search",
        "",
        f"{given.repeats // 2} searches each, over two of three patients of each fold: by how much the truth "
        "is above the score as it was chosen and corrected, in the mean, with its 95 % interval over "
        "repeats; and how often the interval of each holds the truth. That is the KL of the third patients, "
        "whose own error is counted in.",
        "",
        *table(["configurations", "as chosen", "corrected"], rows_of_searches),
    ]
    path = write_result("honesty", lines)
    sys.stdout.write("\n".join([*lines, "", f"written to {path.name}"]) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
