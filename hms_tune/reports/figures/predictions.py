"""What out-of-fold predictions look like: where a model is wrong, how sure it is, whom it fails."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from hms_tune.data.schema import CLASSES
from hms_tune.errors import DataError
from hms_tune.reports.figures.example import load_example
from hms_tune.reports.figures.style import ACCENT, CLASS_COLOURS, FAINT, INK, chart, new_figure, quiet
from hms_tune.reports.figures.window import View, heading, labelled_figure
from hms_tune.training.events import OutOfFold
from hms_tune.training.history import FoldRecord
from hms_tune.training.scores import Score, kl_per_row, reliability

FOLD_COLOURS = ("#2f5d8a", "#c0392b", "#3c8d5a", "#d98526", "#7b5ea7", "#4aa3a3", "#8a6d3b", "#5d6675")


def confusion_figure(predictions: OutOfFold) -> Figure:
    """Experts' consensus against the model's likeliest class."""
    truth, said = predictions.targets.argmax(axis=1), predictions.probabilities.argmax(axis=1)
    counts = np.zeros((len(CLASSES), len(CLASSES)), dtype=np.int64)
    np.add.at(counts, (truth, said), 1)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    figure = new_figure(5.8, 5.0)
    axes = figure.add_axes((0.16, 0.14, 0.82, 0.83))
    axes.imshow(shares, cmap="Blues", vmin=0.0, vmax=1.0, aspect="auto")
    for row in range(len(CLASSES)):
        for column in range(len(CLASSES)):
            if counts[row, column]:
                colour = "white" if shares[row, column] > 0.55 else INK
                label = f"{shares[row, column]:.0%}\n{counts[row, column]:,}"
                axes.text(column, row, label, ha="center", va="center", fontsize=8.5, color=colour)
    axes.set_xticks(range(len(CLASSES)), CLASSES)
    axes.set_yticks(range(len(CLASSES)), CLASSES)
    axes.set_xlabel("the model's likeliest class", fontsize=9.5, color=INK)
    axes.set_ylabel("the experts' consensus", fontsize=9.5, color=INK)
    quiet(axes, sides=())
    axes.tick_params(length=0)
    return figure


def reliability_figure(predictions: OutOfFold) -> Figure:
    """Predicted probability against the share of votes that a class really got."""
    bins = reliability(predictions)
    figure, axes = chart(5.4, 5.0)
    axes.plot([0, 1], [0, 1], color=FAINT, linewidth=1, linestyle=(0, (4, 3)))
    axes.plot(bins.predicted, bins.voted, color=ACCENT, linewidth=1.4)
    axes.scatter(
        bins.predicted, bins.voted, s=18 + 160 * bins.count / bins.count.max(), color=ACCENT, zorder=3
    )
    axes.text(0.03, 0.95, f"mean gap {bins.mean_gap:.3f}", fontsize=10, color=INK, va="top")
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.set_xlabel("predicted probability, any class; dots grow with the number", fontsize=9.5, color=INK)
    axes.set_ylabel("share of the votes", fontsize=9.5, color=INK)
    return figure


def score_figure(scores: Sequence[Score], *, overall: float) -> Figure:
    """Scores side by side, with intervals over patients, and the overall one as a line."""
    figure, axes = chart(5.4, 3.4)
    places = np.arange(len(scores))
    colours = [CLASS_COLOURS.get(each.name, ACCENT) for each in scores]
    axes.bar(places, [each.kl for each in scores], width=0.62, color=colours)
    for place, each in zip(places, scores, strict=True):
        if each.interval is not None:
            axes.plot([place, place], each.interval, color=INK, linewidth=1.2)
    axes.axhline(overall, color=FAINT, linewidth=1, linestyle=(0, (4, 3)))
    names = [f"{each.name}\n{each.rows:,} rows" for each in scores]
    axes.set_xticks(places, names)
    axes.tick_params(axis="x", labelsize=8.5)
    axes.set_ylabel("KL; bars: 95 % over patients", fontsize=9.5, color=INK)
    return figure


def curves_figure(folds: Sequence[FoldRecord]) -> Figure:
    """Training loss (pale) and validation KL of each fold; the best epoch is marked."""
    figure, axes = chart(5.4, 3.4)
    for fold in folds:
        colour = FOLD_COLOURS[fold.fold % len(FOLD_COLOURS)]
        epochs = [epoch.epoch + 1 for epoch in fold.epochs]
        axes.plot(epochs, [epoch.train_loss for epoch in fold.epochs], color=colour, alpha=0.35, linewidth=1)
        kl = [epoch.kl for epoch in fold.epochs]
        axes.plot(epochs, kl, color=colour, linewidth=1.6, label=f"fold {fold.fold + 1}")
        if kl:
            best = int(np.argmin(kl))
            axes.scatter([epochs[best]], [kl[best]], s=26, color=colour, zorder=3)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("epoch; pale: training loss, dot: best epoch", fontsize=9.5, color=INK)
    axes.set_ylabel("validation KL", fontsize=9.5, color=INK)
    if folds:
        axes.legend(frameon=False, fontsize=8.5, ncols=min(len(folds), 5), loc="upper right")
    return figure


@dataclass(frozen=True, slots=True)
class Worst:
    """A row that was predicted badly. ``picture`` is None where the recording cannot be read."""

    eeg_id: int
    kl: float
    title: str
    picture: Figure | None


def worst_predicted(predictions: OutOfFold, root: Path | None, *, number: int = 3) -> list[Worst]:
    """The rows with the largest KL, each of another patient, drawn from the competition folder."""
    kl = kl_per_row(predictions.targets, predictions.probabilities)
    found: list[Worst] = []
    patients: set[int] = set()
    for row in np.argsort(-kl, kind="stable"):
        if len(found) == number:
            break
        if int(predictions.patient_id[row]) in patients:
            continue
        patients.add(int(predictions.patient_id[row]))
        found.append(_worst(predictions, int(row), float(kl[row]), root))
    return found


def _worst(predictions: OutOfFold, row: int, kl: float, root: Path | None) -> Worst:
    probabilities = predictions.probabilities[row]
    likeliest = np.argsort(-probabilities)[:2]
    said = ", ".join(f"{CLASSES[place]} {probabilities[place]:.0%}" for place in likeliest)
    eeg_id = int(predictions.eeg_id[row])
    truth = CLASSES[int(predictions.targets[row].argmax())]
    title = f"EEG {eeg_id}: experts {truth}; predicted {said}; KL {kl:.2f}"
    if root is None:
        return Worst(eeg_id, kl, title, None)
    try:
        view = View.of(load_example(root, eeg_id))
    except DataError:  # the folder is not the one the study was run on
        return Worst(eeg_id, kl, title, None)
    figure = labelled_figure(view)
    above = f"{heading(view.example)}; predicted {said}; KL {kl:.2f}"
    figure.text(0.065, 0.985, above, fontsize=12, va="top")
    return Worst(eeg_id, kl, title, figure)
