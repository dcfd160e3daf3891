"""Hold the synthetic competition against the figures known of the real one.

    python benchmarks/synthetic.py [--patients 100] [--seed 0] [--jobs N] [--folder DIR]

Votes, counts and lengths are judged on a plan of the real size, 1,950 patients, which needs no signal;
signals on segments of 600 patients, a hundred of each class. Beside them stands the folder of ``--patients``
that is written for it, whose EEGs are fewer and shorter. Prints every figure with its target and tolerance,
writes ``benchmarks/results/synthetic.md``, and exits 1 when one is outside. Targets come from the
competition's own files, from Jing et al. (Neurology 2023;100(17):e1737 and e1750), and from the latter's
sample segments.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from segments import make_segments
from synthetic_measures import (
    Values,
    Votes,
    Window,
    joint_agreement,
    kappa,
    kinds,
    kl_of_constant,
    kl_of_other_eegs,
    measure,
    shares_of,
)

from hms_tune.data.schema import CLASSES, VOTE_COLUMNS
from hms_tune.data.synthetic import FULL_SIZE, synthesize
from hms_tune.data.synthetic.competition import train_table
from hms_tune.data.synthetic.plan import make_plan

RESULTS = Path(__file__).parent / "results" / "synthetic.md"
SEGMENTS = 600
CLEAR = 0.8  # share of the votes, from which a window counts as one of its class

AGREEMENT = np.array(
    [
        [0.40, 0.16, 0.13, 0.07, 0.04, 0.19],
        [0.05, 0.62, 0.05, 0.06, 0.02, 0.20],
        [0.06, 0.08, 0.57, 0.01, 0.05, 0.22],
        [0.05, 0.16, 0.02, 0.32, 0.08, 0.37],
        [0.03, 0.04, 0.07, 0.06, 0.39, 0.41],
        [0.03, 0.09, 0.06, 0.07, 0.09, 0.66],
    ]
)
BAND_SHARES = {
    (1, 2): (0.05, 0.19, 0.15, 0.04, 0.07, 0.51),
    (3, 9): (0.41, 0.13, 0.06, 0.07, 0.12, 0.21),
    (10, 28): (0.05, 0.19, 0.12, 0.08, 0.09, 0.46),
}
ROWS = {"Seizure": 20933, "LPD": 14856, "GPD": 16702, "LRDA": 16640, "GRDA": 18861, "Other": 18808}
PEAK_TO_PEAK = {
    "Seizure": (159, 477), "LPD": (42, 71), "GPD": (35, 197), "LRDA": (42, 62), "GRDA": (48, 126),
    "Other": (11, 90),
}  # fmt: skip
RATES = {
    "LPD": (0.5, 1.0, 2.0), "GPD": (0.5, 1.25, 2.25), "LRDA": (0.6, 1.4, 2.25), "GRDA": (0.75, 1.3, 2.25),
}  # fmt: skip
ASYMMETRY = {
    "Seizure": (0, 0.6), "LPD": (0.7, 1.5), "GPD": (0, 0.3), "LRDA": (0.4, 1.0), "GRDA": (0, 0.3),
}  # fmt: skip


@dataclass(frozen=True)
class Figure:
    """One line of the table; ``judged`` is held against the target, ``beside`` only shown."""

    name: str
    target: str
    judged: float
    beside: float | None
    tolerance: str
    ok: bool

    @classmethod
    def near(
        cls, name: str, target: float, tolerance: float, judged: float, beside: float | None = None
    ) -> Figure:
        """A figure that must lie within ± ``tolerance`` of its target."""
        ok = bool(abs(judged - target) <= tolerance)
        return cls(name, f"{target:.4g}", float(judged), beside, f"± {tolerance:.2g}", ok)

    @classmethod
    def within(cls, name: str, low: float, high: float, judged: float, beside: float | None = None) -> Figure:
        """A figure that must lie in a range."""
        ok = bool(low <= judged <= high)
        return cls(name, f"{low:g} to {high:g}", float(judged), beside, "in range", ok)

    def row(self) -> str:
        """The line, as Markdown."""
        beside = "" if self.beside is None else f"{self.beside:.4g}"
        cells = (self.name, self.target, f"{self.judged:.4g}", beside, self.tolerance)
        return "| " + " | ".join(cells) + f" | {'yes' if self.ok else '**no**'} |"


def vote_figures(full: Votes, folder: Votes) -> list[Figure]:
    """What votes tell: how raters agree, how many there are, what they say."""
    figures: list[Figure] = []

    def add(name: str, target: float, tolerance: float, of: Callable[[Votes], float]) -> None:
        figures.append(Figure.near(name, target, tolerance, of(full), of(folder)))

    difference = np.abs(conditional(full) - AGREEMENT)
    figures.append(Figure.near("agreement matrix, mean difference of a cell", 0, 0.03, difference.mean()))
    figures.append(Figure.near("agreement matrix, largest difference", 0, 0.12, difference.max()))
    add("pairwise agreement", 0.52, 0.07, lambda votes: np.trace(joint_agreement(votes.many)))
    add("Cohen's κ", 0.42, 0.05, lambda votes: kappa(joint_agreement(votes.many)))
    add("idealized", 0.35, 0.05, lambda votes: kinds(votes.many)[0])
    add("proto", 0.09, 0.03, lambda votes: kinds(votes.many)[1])
    add("edge", 0.04, 0.02, lambda votes: kinds(votes.many)[2])
    add("EEGs with exactly 3 votes", 0.5, 0.04, lambda votes: (votes.total == 3).mean())
    add("EEGs with ≥ 10 votes", 5939 / 17089, 0.03, lambda votes: (votes.total >= 10).mean())
    add("fewest votes", 1, 0, lambda votes: votes.total.min())
    add("most votes", 28, 0, lambda votes: votes.total.max())
    for (low, high), target in BAND_SHARES.items():
        for number, name in enumerate(CLASSES):

            def share(votes: Votes, low: int = low, high: int = high, number: int = number) -> float:
                chosen = (votes.total >= low) & (votes.total <= high)
                return float(shares_of(votes.first[chosen])[:, number].mean())

            # one or two votes have a twelfth of the EEGs, and those of a patient are alike
            add(f"{name} share of {low}–{high} votes", target[number], 0.08 if high == 2 else 0.05, share)
    for name, count in ROWS.items():

        def rows(votes: Votes, name: str = name) -> float:
            return float((votes.table["expert_consensus"] == name).mean())

        add(f"{name} rows by consensus", count / sum(ROWS.values()), 0.06, rows)
    sixth = np.full(6, 1 / 6)
    add("KL of 1/6, all EEGs", 1.4585, 0.12, lambda votes: kl_of_constant(votes.all_windows, sixth))
    add("KL of 1/6, ≥ 10 votes", 1.1525, 0.12, lambda votes: kl_of_constant(votes.many, sixth))
    add("KL of the mean, all EEGs", 1.2578, 0.12, lambda votes: kl_of_constant(votes.all_windows))
    add("KL of the mean, ≥ 10 votes", 0.8452, 0.12, lambda votes: kl_of_constant(votes.many))
    add("KL of the patient's other EEGs", 0.452, 0.2, kl_of_other_eegs)
    return figures


def conditional(votes: Votes) -> Values:
    """P(second rater's class | first's) of windows with ten votes or more."""
    joint = joint_agreement(votes.many)
    return np.asarray(joint / joint.sum(axis=1, keepdims=True))


def count_figures(full: Votes, folder: Votes, lengths: Values) -> list[Figure]:
    """Counts and lengths."""

    def each(of: str, by: str) -> tuple[pd.Series, pd.Series]:
        full_count, folder_count = (votes.table.groupby(by)[of].nunique() for votes in (full, folder))
        return full_count, folder_count

    eegs, together = each("eeg_id", "patient_id"), each("eeg_id", "spectrogram_id")
    rows, vectors = each("label_id", "eeg_id"), (full.vectors, folder.vectors)
    near, within = Figure.near, Figure.within
    return [
        near("EEGs per patient, median", 3, 1, eegs[0].median(), eegs[1].median()),
        near("EEGs per patient, mean", 17089 / 1950, 1.2, eegs[0].mean(), eegs[1].mean()),
        near("EEGs per patient, most", 270, 60, eegs[0].max(), eegs[1].max()),
        near("EEGs per spectrogram, mean", 17089 / 11138, 0.15, together[0].mean(), together[1].mean()),
        within("EEGs per spectrogram, most (107)", 20, 107, together[0].max(), together[1].max()),
        near("rows per EEG", 106_800 / 17_089, 1, rows[0].mean(), rows[1].mean()),
        near("EEGs that change votes", 0.106, 0.02, (vectors[0] > 1).mean(), (vectors[1] > 1).mean()),
        near("vote vectors per EEG", 21_490 / 17_089, 0.1, vectors[0].mean(), vectors[1].mean()),
        near("seconds per EEG, median", 58, 3, np.median(lengths)),
        near("seconds per EEG, mean", 79.8, 8, lengths.mean()),
        near("seconds per EEG, longest", 3422, 700, lengths.max()),
    ]


def signal_figures(segments: list[Window], folder: list[Window]) -> list[Figure]:
    """Amplitude, rate, asymmetry and spectrum of clear windows."""
    figures = []
    for name in CLASSES:
        judged, beside = ([window for window in each if window.name == name] for each in (segments, folder))
        low, high = PEAK_TO_PEAK[name]
        sizes, beside_sizes = (
            np.array([window.peak_to_peak for window in each]) for each in (judged, beside)
        )
        figures.append(
            Figure.within(f"{name}: p–p, median, µV", low, high, np.median(sizes), median(beside_sizes))
        )
        near = np.mean((sizes >= low / 1.5) & (sizes <= high * 1.5))
        figures.append(Figure.within(f"{name}: share within 1.5 times that range", 0.7, 1, near))
        for number, target in enumerate(RATES.get(name, ())):
            percentile = (5, 50, 95)[number]
            rate = np.nanpercentile([window.rate for window in judged], percentile)
            figures.append(Figure.near(f"{name}: rate, {percentile} %, Hz", target, 0.35 * target, rate))
        if name in ASYMMETRY:
            found, shown = (np.array([window.asymmetry for window in each]) for each in (judged, beside))
            label = f"{name}: left/right, median, log2"
            figures.append(Figure.within(label, *ASYMMETRY[name], np.median(found), median(shown)))
    shares, shown = (np.array([window.delta_share for window in each]) for each in (segments, folder))
    figures.append(Figure.within("delta share, median", 0.62, 0.97, np.median(shares), median(shown)))
    typical = np.mean((shares > 0.62) & (shares < 0.97))
    figures.append(Figure.within("windows with a delta share of 62–97 %", 0.7, 1, typical))
    return figures


def median(values: Values) -> float | None:
    """The median, if there is one."""
    return float(np.median(values)) if len(values) else None


def clear_segments(seed: int, jobs: int | None) -> list[Window]:
    """Measure segments that a panel without end would mostly call the same."""
    segments = make_segments(SEGMENTS, seed=seed, jobs=jobs)
    names = [CLASSES[number] for number in segments.truth.argmax(axis=1)]
    clear = np.flatnonzero(segments.truth.max(axis=1) >= CLEAR)
    return [measure(segments.eeg[number], names[number]) for number in clear]


def clear_windows(root: Path, table: pd.DataFrame) -> list[Window]:
    """Measure the first window of every EEG of a folder whose raters mostly call it the same."""
    windows = []
    for _, row in table.drop_duplicates("eeg_id").iterrows():
        votes = row[list(VOTE_COLUMNS)].to_numpy(np.float64)
        if votes.max() >= CLEAR * votes.sum():
            samples = pq.read_table(root / f"train_eegs/{row['eeg_id']}.parquet").to_pandas().to_numpy()
            start = int(200 * row["eeg_label_offset_seconds"])
            windows.append(measure(samples[start : start + 10_000].T, row["expert_consensus"]))
    return windows


def missing_figures(root: Path) -> list[Figure]:
    """Shares of NaN. A folder of a hundred patients has few gaps, hence the wide tolerances."""
    figures = []
    for kind, target, tolerance in (("eegs", 0.12, 0.1), ("spectrograms", 2.4, 1.2)):
        cells = missing = 0
        for path in (root / f"train_{kind}").iterdir():
            values = pq.read_table(path).to_pandas().to_numpy(np.float32)
            cells, missing = cells + values.size, missing + int(np.isnan(values).sum())
        figures.append(Figure.near(f"NaN in {kind}, %", target, tolerance, 100 * missing / cells))
    return figures


def matrix_text(synthetic: Values) -> str:
    """Real and synthetic agreement side by side, as Markdown."""
    lines = ["| | " + " | ".join(CLASSES) + " |", "|---" * 7 + "|"]
    for name, real_row, row in zip(CLASSES, AGREEMENT, synthetic, strict=True):
        cells = [f"{real:.2f} / {ours:.2f}" for real, ours in zip(real_row, row, strict=True)]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> int:
    """Measure, print, write; 1 if a figure is outside its tolerance."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--patients", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int)
    parser.add_argument("--folder", type=Path, help="a folder of that many patients that is there already")
    options = parser.parse_args()

    plan = make_plan(1950, replace(FULL_SIZE, test_patients=1), options.seed)
    trained = [stretch for stretch in plan.stretches if stretch.split == "train"]
    lengths = np.array([record.length for stretch in trained for record in stretch.recordings])
    full = Votes.of(train_table(plan))
    segments = clear_segments(options.seed, options.jobs)
    with tempfile.TemporaryDirectory() as scratch:
        root, note = options.folder, "made before"
        if root is None:
            root, started = Path(scratch) / "hms", time.perf_counter()
            synthesize(root, patients=options.patients, seed=options.seed, jobs=options.jobs)
            note = f"written in {time.perf_counter() - started:.0f} s"
        folder = Votes.of(pd.read_csv(root / "train.csv"))
        signals = signal_figures(segments, clear_windows(root, folder.table)) + missing_figures(root)
    figures = vote_figures(full, folder) + count_figures(full, folder, lengths) + signals
    outside = [figure.name for figure in figures if not figure.ok]
    lines = [
        "# The synthetic competition beside the real one",
        f"`python benchmarks/synthetic.py --patients {options.patients} --seed {options.seed}`: a plan of "
        f"1,950 patients with {len(full.first)} EEGs, {len(segments)} clear segments, and a folder of "
        f"{options.patients} patients with {len(folder.first)} EEGs ({note}).",
        "P(second rater's class | first's) of windows with ≥ 10 votes, real / synthetic:",
        matrix_text(conditional(full)),
        "Agreement, idealized, proto and edge are of windows with ≥ 10 votes. `judged` is the plan, and from "
        "the first p–p on the segments; NaN is the folder's.",
        "| figure | target | judged | folder | tolerance | ok |\n" + "|---" * 6 + "|\n"
        + "\n".join(figure.row() for figure in figures),
        f"{len(figures) - len(outside)} of {len(figures)} within tolerance.",
    ]  # fmt: skip
    text = "\n\n".join(lines) + "\n"
    sys.stdout.write(text)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(text)
    if outside:
        sys.stderr.write(f"outside: {', '.join(outside)}\n")
    return 1 if outside else 0


if __name__ == "__main__":
    sys.exit(main())
