"""How often stated intervals hold the truth, where it is known.

    python benchmarks/honesty.py            # a minute on one core

The KL of each patient of the configurations in ``benchmarks/results/search_reporting.npz`` (trained by
``benchmarks/search.py tabulate``; none of them chose an interval) is taken as the whole population: its mean
is the truth. So many patients are drawn from it with replacement, again and again, and each kind of interval
is asked whether it holds the truth. ``hms_tune.training.scores.patient_interval`` was chosen on
``search_choosing.npz``. Writes ``benchmarks/results/honesty.md``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from machine import table, write_result
from numpy.typing import NDArray
from scipy.special import stdtrit

from hms_tune.training.scores import patient_interval

RESULTS = Path(__file__).parent / "results"
PATIENTS = (3, 4, 6, 8, 12, 20, 45)

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
        kl = stored["patient_kl"][:, -1, validated].astype(np.float64)
        rows = stored["patient_rows"][validated].astype(np.float64)
    kl = kl[np.isfinite(kl).all(axis=1)]
    rows_of_table = []
    for patients in PATIENTS:
        found = coverage(kl, rows, patients, given.repeats)
        cells = [f"{share:.1%} ({width:.2f})" for share, width in found.values()]
        rows_of_table.append([str(patients), *cells])
    lines = [
        "# How often intervals over patients hold the truth",
        "",
        f"`python benchmarks/honesty.py --repeats {given.repeats}` on {given.table.name}: {len(kl)} "
        f"configurations, {kl.shape[1]} patients as the population. Each interval says 95 %; in brackets its "
        "median width.",
        "",
        *table(["patients", *KINDS], rows_of_table),
    ]
    path = write_result("honesty", lines)
    sys.stdout.write("\n".join([*lines, "", f"written to {path.name}"]) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
