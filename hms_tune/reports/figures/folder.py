"""Charts of a competition folder: classes, experts, lengths, patients, agreement, NaN."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from hms_tune.data.check.summary import Labelling
from hms_tune.data.labels import HIGH_VOTES
from hms_tune.data.schema import CLASSES
from hms_tune.reports.figures.style import ACCENT, CLASS_COLOURS, FAINT, INK, chart

_PATIENT_EDGES = (1, 2, 3, 6, 11, 21, 51, 101, 201)


def class_shares(labelling: Labelling) -> Figure:
    """Share of rows by consensus, and mean share of the votes, by class."""
    figure, axes = chart(5.4, 3.0)
    places = np.arange(len(CLASSES))
    consensus = [labelling.consensus_shares[name] for name in CLASSES]
    votes = [labelling.vote_shares[name] for name in CLASSES]
    colours = [CLASS_COLOURS[name] for name in CLASSES]
    axes.bar(places - 0.2, consensus, width=0.38, color=colours)
    axes.bar(places + 0.2, votes, width=0.38, color=colours, alpha=0.45)
    for place, (left, right) in enumerate(zip(consensus, votes, strict=True)):
        axes.text(place - 0.2, left, f"{left:.0%}", ha="center", va="bottom", fontsize=8.5, color=INK)
        axes.text(place + 0.2, right, f"{right:.0%}", ha="center", va="bottom", fontsize=8.5, color=INK)
    axes.set_xticks(places, CLASSES)
    _percent(axes)
    return figure


def votes_per_row(raters: NDArray[np.int64]) -> Figure:
    """How many rows had how many experts; those on the high-vote scale are dark."""
    figure, axes = chart(5.4, 3.0)
    numbers = np.arange(1, int(raters.max(initial=1)) + 1)
    shares = np.bincount(raters, minlength=len(numbers) + 1)[1:] / max(len(raters), 1)
    axes.bar(numbers, shares, color=[ACCENT if number >= HIGH_VOTES else FAINT for number in numbers])
    axes.set_xlabel(f"experts of a row; {HIGH_VOTES} or more in blue", fontsize=9.5, color=INK)
    _percent(axes)
    return figure


def recording_lengths(seconds: NDArray[np.float64]) -> Figure:
    """Lengths of the recordings."""
    figure, axes = chart(5.4, 3.0)
    edges = np.geomspace(max(seconds.min(), 1) * 0.98, max(seconds.max(), seconds.min() + 10) * 1.02, 33)
    axes.hist(seconds, bins=edges.tolist(), color=ACCENT)
    axes.set_xscale("log")
    ticks = [tick for tick in (50, 60, 80, 100, 200, 500, 1000, 2000, 3600) if edges[0] <= tick <= edges[-1]]
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    if len(seconds) > 1000:  # the tail of few long recordings would not be seen
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.set_xlabel(
        f"seconds; median {np.median(seconds):g}, longest {seconds.max():g}", fontsize=9.5, color=INK
    )
    axes.set_ylabel("recordings", fontsize=9.5, color=INK)
    return figure


def eegs_per_patient(counts: NDArray[np.int64]) -> Figure:
    """How many patients have how many recordings."""
    figure, axes = chart(5.4, 3.0)
    edges = [edge for edge in _PATIENT_EDGES if edge <= counts.max()] + [int(counts.max()) + 1]
    patients, _ = np.histogram(counts, bins=edges)
    names = [f"{low}–{high - 1}" if high - 1 > low else f"{low}" for low, high in pairwise(edges)]
    axes.bar(names, patients, color=ACCENT, width=0.8)
    for place, number in enumerate(patients):
        axes.text(place, number, f"{number:,}", ha="center", va="bottom", fontsize=8.5, color=INK)
    axes.margins(y=0.12)
    tenth = np.sort(counts)[::-1][: max(1, len(counts) // 10)].sum() / counts.sum()
    axes.set_xlabel(
        f"recordings of a patient; a tenth of the patients have {tenth:.0%}", fontsize=9.5, color=INK
    )
    axes.set_ylabel("patients", fontsize=9.5, color=INK)
    return figure


def kinds_of_agreement(kinds: Mapping[str, float]) -> Figure:
    """How experts agree."""
    figure, axes = chart(5.4, 3.0)
    names = list(kinds)
    axes.bar(names, list(kinds.values()), color=[ACCENT, ACCENT, ACCENT, FAINT], width=0.6)
    for place, share in enumerate(kinds.values()):
        axes.text(place, share, f"{share:.0%}", ha="center", va="bottom", fontsize=9, color=INK)
    _percent(axes)
    return figure


def nan_shares(shares: Mapping[str, float]) -> Figure:
    """NaN of each channel."""
    figure, axes = chart(5.4, 3.0)
    axes.bar(list(shares), [100 * share for share in shares.values()], color=ACCENT)
    axes.tick_params(axis="x", labelsize=7.5)
    axes.set_ylabel("% of samples", fontsize=9.5, color=INK)
    return figure


def _percent(axes: Axes) -> None:
    axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.3g} %")
    axes.margins(y=0.12)
