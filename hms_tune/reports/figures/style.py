"""How pictures look: colours and figures, without any state that pictures share."""

from __future__ import annotations

import io

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

INK = "#1d2430"
FAINT = "#8a93a3"
GRID = "#dfe3ea"
PAPER = "#ffffff"
ACCENT = "#2f5d8a"
FRONT = "#c0392b"
"""The line of the best."""
MARK = "#fff3cf"
"""Ground of what experts labelled."""

CHAIN_COLOURS = {
    "LL": "#1f4e8c",
    "LP": "#2f77c0",
    "RL": "#9c2f2f",
    "RP": "#cf5a4a",
    "midline": "#3d3d3d",
    "EKG": "#5d8a5d",
}
"""Left is blue and right is red, as on most EEG screens."""

CLASS_COLOURS = {
    "Seizure": "#c0392b",
    "LPD": "#d98526",
    "GPD": "#b8a425",
    "LRDA": "#3c8d5a",
    "GRDA": "#2f77c0",
    "Other": "#8a93a3",
}


def new_figure(width: float, height: float) -> Figure:
    """A figure of its own, in inches, that no global state knows of."""
    figure = Figure(figsize=(width, height), facecolor=PAPER)
    FigureCanvasAgg(figure)
    return figure


def chart(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure of that size, in inches, with one quiet pair of axes and room for their labels."""
    figure = new_figure(width, height)
    left, bottom = 0.675 / width, 0.56 / height
    axes = figure.add_axes((left, bottom, 1 - left - 0.11 / width, 1 - bottom - 0.2 / height))
    quiet(axes)
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    return figure, axes


def png(figure: Figure, *, dpi: int = 110) -> bytes:
    """The figure as PNG; equal figures give equal bytes."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=dpi, metadata={"Software": None})
    return stream.getvalue()


def svg(figure: Figure) -> str:
    """The figure as an SVG element, to stand in a page."""
    stream = io.StringIO()
    FigureCanvasSVG(figure)
    figure.savefig(stream, format="svg", metadata={"Date": None})
    text = stream.getvalue()
    return text[text.index("<svg") :]


def quiet(axes: Axes, *, sides: tuple[str, ...] = ("left", "bottom")) -> None:
    """Draw these sides of the frame alone, thin and faint."""
    for side, spine in axes.spines.items():
        spine.set_visible(side in sides)
        spine.set_color(FAINT)
        spine.set_linewidth(0.8)
    axes.tick_params(colors=INK, labelsize=9, length=3, color=FAINT)
