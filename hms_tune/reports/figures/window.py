"""The picture of one window: 50 s of montage, the labelled 10 s enlarged, spectrograms, votes."""

from __future__ import annotations

from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec, GridSpecFromSubplotSpec, SubplotSpec

from hms_tune.data.schema import WINDOW_SECONDS
from hms_tune.reports.figures.example import LABELLED_SECONDS, Example
from hms_tune.reports.figures.style import FAINT, INK, new_figure
from hms_tune.reports.figures.traces import HIGH_HZ, LOW_HZ, Trace, montage, region_power, sensitivity
from hms_tune.reports.figures.window_parts import (
    add_colour_scale,
    draw_file_spectrograms,
    draw_montage,
    draw_votes,
    draw_window_spectrograms,
)


@dataclass(frozen=True, slots=True)
class View:
    """A window with its montage, ready to be drawn.

    Parameters
    ----------
    example : the window
    traces : its lines
    microvolts : distance between two lines
    """

    example: Example
    traces: list[Trace]
    microvolts: int

    @classmethod
    def of(cls, example: Example) -> View:
        """Filter the window and choose the scale that suits it."""
        traces = montage(example)
        return cls(example, traces, sensitivity(traces))


def sheet(view: View) -> Figure:
    """Everything about a window on one sheet, 17 by 20 inches."""
    figure = new_figure(17, 20)
    figure.text(0.03, 0.984, heading(view.example), fontsize=17, color=INK, weight="bold", va="center")
    below = f"{whereabouts(view.example)}; {how_it_is_shown(view.microvolts)}"
    figure.text(0.03, 0.968, below, fontsize=10.5, color=FAINT, va="center")
    parts = figure.add_gridspec(
        3, 1, left=0.075, right=0.96, top=0.945, bottom=0.035, height_ratios=(9, 8, 6), hspace=0.13
    )
    _whole(figure.add_subplot(parts[0]), view)
    _labelled(figure.add_subplot(parts[1]), view)
    if view.example.votes is None:
        _spectrograms(figure, parts[2], view)
    else:
        columns = parts[2].subgridspec(1, 2, width_ratios=(75, 20), wspace=0.17)
        _spectrograms(figure, columns[0], view)
        draw_votes(figure.add_subplot(columns[1]), view.example.votes)
    return figure


def whole_figure(view: View) -> Figure:
    """The 50 s alone, for a page."""
    figure = new_figure(13, 7.4)
    _whole(figure.add_axes((0.065, 0.05, 0.93, 0.91)), view)
    return figure


def labelled_figure(view: View) -> Figure:
    """The labelled 10 s alone, for a page."""
    figure = new_figure(13, 6.8)
    _labelled(figure.add_axes((0.065, 0.08, 0.93, 0.87)), view)
    return figure


def spectrogram_figure(view: View) -> Figure:
    """The spectrograms alone, for a page."""
    figure = new_figure(13, 5.2)
    _spectrograms(figure, figure.add_gridspec(1, 1, left=0.05, right=0.94, top=0.93, bottom=0.1)[0], view)
    return figure


def heading(example: Example) -> str:
    """Which window this is, and what experts called it."""
    name = f"EEG {example.eeg_id}"
    if example.votes is None:
        return name
    return f"{name}: {example.consensus}, {example.votes.max():.3g} of {example.votes.sum():.0f} votes"


def whereabouts(example: Example) -> str:
    """Patient, half and place of the window."""
    end = example.offset_seconds + WINDOW_SECONDS
    return (
        f"patient {example.patient_id}, {example.split}, {example.offset_seconds:g}–{end:g} s "
        f"of {example.recording_seconds:g} s"
    )


def how_it_is_shown(microvolts: int) -> str:
    """The montage's settings, as an EEG screen states them."""
    return (
        f"longitudinal bipolar, {LOW_HZ:g}–{HIGH_HZ:g} Hz, negative up, {microvolts} µV between two lines; "
        "EKG to its own scale; left blue, right red"
    )


def _whole(axes: Axes, view: View) -> None:
    draw_montage(axes, view.traces, first=0, last=WINDOW_SECONDS, microvolts=view.microvolts)
    axes.set_title("50 s; experts labelled what is marked", loc="left", fontsize=10, color=INK)


def _labelled(axes: Axes, view: View) -> None:
    first, last = LABELLED_SECONDS
    draw_montage(axes, view.traces, first=first, last=last, microvolts=view.microvolts)
    axes.set_title("the labelled 10 s", loc="left", fontsize=10, color=INK)
    axes.set_xlabel("seconds of the window", fontsize=9, color=INK)


def _spectrograms(figure: Figure, place: SubplotSpec, view: View) -> None:
    """The file's ten minutes where there is a file, else the window's own."""
    grid: GridSpec | GridSpecFromSubplotSpec = place.subgridspec(
        4, 2, width_ratios=(70, 1), wspace=0.02, hspace=0.09
    )
    regions = [figure.add_subplot(grid[row, 0]) for row in range(4)]
    if view.example.spectrogram is not None:
        image = draw_file_spectrograms(regions, view.example.spectrogram)
        title = "spectrogram file, 10 minutes"
    else:
        image = draw_window_spectrograms(regions, *region_power(view.traces))
        title = "spectrogram of this EEG (there is no file)"
    regions[0].set_title(title, loc="left", fontsize=10, color=INK)
    add_colour_scale(figure, figure.add_subplot(grid[:, 1]), image)
