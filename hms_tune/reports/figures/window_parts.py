"""The parts of a picture of one window: montage, spectrograms, votes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from numpy.typing import NDArray

from hms_tune.data.schema import CLASSES, FREQUENCIES, SFREQ, WINDOW_SECONDS
from hms_tune.reports.figures.example import LABELLED_SECONDS
from hms_tune.reports.figures.style import CHAIN_COLOURS, CLASS_COLOURS, FAINT, GRID, INK, MARK, quiet
from hms_tune.reports.figures.traces import Trace
from hms_tune.signals.montage import REGIONS

COLOURS = "magma"
_BETWEEN_CHAINS = 0.6
_LARGEST_SWING = 2.0
"""A line leaves its place by at most this many line distances, so that one bad channel hides few others."""

REGION_NAMES = {
    "LL": "left temporal",
    "RL": "right temporal",
    "LP": "left parasagittal",
    "RP": "right parasagittal",
}


def draw_montage(axes: Axes, traces: Sequence[Trace], *, first: float, last: float, microvolts: int) -> None:
    """Draw the lines of a window, negative up (the electrocardiogram positive up), with seconds and a scale.

    Parameters
    ----------
    axes : where
    traces : of :func:`hms_tune.reports.figures.traces.montage`
    first, last : which seconds of the window
    microvolts : distance between two lines
    """
    samples = slice(round(first * SFREQ), round(last * SFREQ))
    seconds = np.arange(samples.start, samples.stop) / SFREQ
    heights = _heights(traces)
    _draw_ground(axes, first, last)
    for trace, height in zip(traces, heights, strict=True):
        gain = -_ekg_microvolts(trace) if trace.chain == "EKG" else microvolts
        swing = np.clip(trace.values[samples] / gain, -_LARGEST_SWING, _LARGEST_SWING)
        colour = FAINT if trace.remark else CHAIN_COLOURS[trace.chain]
        axes.plot(seconds, height - swing, color=colour, linewidth=0.6, solid_joinstyle="round")
        _draw_gaps(axes, seconds, trace.values[samples], height)
    axes.set_ylim(min(heights) - 2.0, max(heights) + 1.2)
    quiet(axes, sides=("bottom",))
    axes.tick_params(axis="y", length=0, labelsize=9)
    axes.set_yticks(heights, [_name(trace) for trace in traces])
    for label, trace in zip(axes.get_yticklabels(), traces, strict=True):
        label.set_color(FAINT if trace.remark else CHAIN_COLOURS[trace.chain])
    _draw_scale(axes, first, last, min(heights), microvolts)


def draw_file_spectrograms(axes: Sequence[Axes], power: NDArray[np.float32]) -> AxesImage:
    """The four regions of a ten-minute file, with the 50 s window and the labelled 10 s marked.

    Parameters
    ----------
    axes : four, one above the other
    power : float32 (400, 300), µV²/Hz
    """
    minutes = (0.0, power.shape[1] * 2 / 60)
    image = _draw_power(
        axes, power.reshape(4, len(FREQUENCIES), -1), extent=(*minutes, FREQUENCIES[0], FREQUENCIES[-1])
    )
    for region in axes:
        for second, style in ((275, ":"), (295, "-"), (305, "-"), (325, ":")):
            region.axvline(second / 60, color="white", linewidth=0.9, linestyle=style)
        region.set_xticks(range(int(minutes[1]) + 1))
    axes[-1].set_xlabel("minutes; dotted: the 50 s above, solid: the labelled 10 s", fontsize=9, color=INK)
    return image


def draw_window_spectrograms(
    axes: Sequence[Axes],
    seconds: NDArray[np.float64],
    frequencies: NDArray[np.float64],
    power: NDArray[np.float64],
) -> AxesImage:
    """The four regions over the window itself; see :func:`hms_tune.reports.figures.traces.region_power`."""
    extent = (float(seconds[0]), float(seconds[-1]), float(frequencies[0]), float(frequencies[-1]))
    image = _draw_power(axes, power, extent=extent)
    for region in axes:
        for second in LABELLED_SECONDS:
            region.axvline(second, color="white", linewidth=0.9)
        region.set_xticks(range(5, WINDOW_SECONDS, 5))
    axes[-1].set_xlabel("seconds of the window; solid: the labelled 10 s", fontsize=9, color=INK)
    return image


def add_colour_scale(figure: Figure, place: Axes, image: ScalarMappable) -> None:
    """Say what the colours of the spectrograms mean."""
    scale = figure.colorbar(image, cax=place)
    scale.outline.set_visible(False)
    scale.ax.tick_params(labelsize=8, color=FAINT, labelcolor=INK)
    scale.set_label("dB re 1 µV²/Hz", fontsize=9, color=INK)


def draw_votes(axes: Axes, votes: NDArray[np.float64] | None) -> None:
    """The experts' votes as bars, or a word that there are none."""
    quiet(axes, sides=())
    axes.set_xticks([])
    if votes is None:
        axes.set_yticks([])
        axes.text(0.5, 0.5, "no votes", ha="center", va="center", color=FAINT, transform=axes.transAxes)
        return
    places = np.arange(len(CLASSES))[::-1]
    axes.barh(places, votes, color=[CLASS_COLOURS[name] for name in CLASSES], height=0.66)
    for place, count in zip(places, votes, strict=True):
        axes.text(count + 0.02 * votes.max(), place, f" {count:.3g}", va="center", fontsize=9, color=INK)
    axes.set_yticks(places, CLASSES)
    axes.tick_params(axis="y", length=0)
    axes.set_xlim(0, votes.max() * 1.15)
    experts = round(votes.sum())
    axes.set_title(f"votes of {experts} expert{'s'[: experts != 1]}", loc="left", fontsize=10, color=INK)


def _heights(traces: Sequence[Trace]) -> list[float]:
    heights: list[float] = []
    height, chain = 0.0, traces[0].chain
    for trace in traces:
        height -= 0.0 if trace.chain == chain else _BETWEEN_CHAINS
        chain = trace.chain
        heights.append(height)
        height -= 1.0
    return heights


def _name(trace: Trace) -> str:
    return f"{trace.name} ({trace.remark})" if trace.remark else trace.name


def _ekg_microvolts(trace: Trace) -> float:
    """The electrocardiogram fills its line whatever its amplitude."""
    there = np.abs(trace.values[~np.isnan(trace.values)])
    return max(1.5 * float(np.percentile(there, 99.5)), 1.0) if there.size else 1.0


def _draw_ground(axes: Axes, first: float, last: float) -> None:
    begin, end = max(first, LABELLED_SECONDS[0]), min(last, LABELLED_SECONDS[1])
    if (first, last) != LABELLED_SECONDS and begin < end:
        axes.axvspan(begin, end, color=MARK, linewidth=0, zorder=0)
    for second in np.arange(np.ceil(first), last + 0.01):
        axes.axvline(second, color=GRID, linewidth=1.2 if second % 5 == 0 else 0.7, zorder=0.5)
    axes.set_xlim(first, last)
    step = 1 if last - first <= 15 else 5
    axes.set_xticks(np.arange(first, last + 0.01, step))


def _draw_gaps(axes: Axes, seconds: NDArray[np.float64], values: NDArray[np.float64], height: float) -> None:
    """A dashed line where the file has no numbers."""
    line = np.where(np.isnan(values), height, np.nan)
    if not np.isnan(line).all():
        axes.plot(seconds, line, color=FAINT, linewidth=0.6, linestyle=(0, (4, 4)))


def _draw_scale(axes: Axes, first: float, last: float, lowest: float, microvolts: int) -> None:
    """A bar as high as two lines lie apart, and a second wide, below the last line at the right."""
    right = last - 0.006 * (last - first)
    bottom = lowest - 1.85
    axes.plot([right - 1, right, right], [bottom, bottom, bottom + 1], color=INK, linewidth=1.4, zorder=5)
    axes.annotate(
        f"{microvolts} µV, 1 s",
        (right - 1, bottom),
        xytext=(-5, 0),
        textcoords="offset points",
        ha="right",
        va="bottom",
        fontsize=9,
        color=INK,
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1},
        zorder=5,
    )


def _draw_power(
    axes: Sequence[Axes], power: NDArray[np.floating], *, extent: tuple[float, float, float, float]
) -> AxesImage:
    """Four images of decibels with one scale."""
    with np.errstate(divide="ignore"):
        decibels = 10 * np.log10(np.maximum(power, 1e-4))
    there = decibels[np.isfinite(decibels)]
    low, high = np.percentile(there, [10, 99.7]) if there.size else (-10.0, 30.0)
    scale = Normalize(float(low), float(max(high, low + 10)))
    for region, name, values in zip(axes, REGIONS, decibels, strict=True):
        image = region.imshow(
            values,
            origin="lower",
            aspect="auto",
            extent=extent,
            cmap=COLOURS,
            norm=scale,
            interpolation="none",
        )
        quiet(region, sides=())
        region.set_facecolor(GRID)  # where the file has no numbers
        region.set_yticks([5, 10, 15])
        region.tick_params(labelbottom=region is axes[-1])
        region.set_ylabel("Hz", fontsize=8, color=INK)
        region.text(
            0.006,
            0.9,
            f"{name}  {REGION_NAMES[name]}",
            transform=region.transAxes,
            fontsize=8.5,
            color="white",
            va="top",
        )
    return image
