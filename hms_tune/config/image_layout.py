"""Where things stand in an image: views, the panels of a view one above the other, traces cut into lines."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Layout = Literal["side_by_side", "grid", "channels"]
"""How the views of an image lie: left to right, in rows of about as many, or each in an own channel."""


@dataclass(frozen=True, slots=True)
class ViewPlace:
    """Where a view stands in an image: its channel, its first row and column, and its size in pixels."""

    channel: int
    top: int
    left: int
    height: int
    width: int


def rows_of_views(layout: Layout, views: int) -> list[int]:
    """How many views each row of a channel holds, from the top."""
    if layout == "side_by_side":
        return [views]
    if layout == "channels":
        return [1]
    columns = math.isqrt(views - 1) + 1
    return panel_heights(views, math.ceil(views / columns))


def view_places(layout: Layout, shares: Sequence[float], image: tuple[int, int]) -> list[ViewPlace]:
    """The place of each view, of which ``shares`` has the share of the width of its row."""
    height, width = image
    if layout == "channels":
        return [ViewPlace(channel, 0, 0, height, width) for channel in range(len(shares))]
    places: list[ViewPlace] = []
    rows = rows_of_views(layout, len(shares))
    top = 0
    for count, tall in zip(rows, panel_heights(height, len(rows)), strict=True):
        of_row = shares[len(places) : len(places) + count]
        ends = [round(width * part / sum(of_row)) for part in itertools.accumulate(of_row)]
        for start, end in zip([0, *ends], ends, strict=False):
            places.append(ViewPlace(0, top, start, tall, end - start))
        top += tall
    return places


def panel_heights(height: int, panels: int) -> list[int]:
    """Rows of each panel; what does not divide evenly goes to the first ones, one row each."""
    rows, extra = divmod(height, panels)
    return [rows + 1] * extra + [rows] * (panels - extra)


def shown_lines(panels: int, lines: int, height: int) -> list[int]:
    """For each row of the image, the line it shows, counted over all panels. Lines may be repeated."""
    heights = panel_heights(height, panels)
    return [panel * lines + row * lines // rows for panel, rows in enumerate(heights) for row in range(rows)]


@dataclass(frozen=True, slots=True)
class TracePlace:
    """Where the traces of a ``raw`` view stand in an image.

    Attributes
    ----------
    traces : how many there are
    rows : the row of each line, from the first trace's first to the last one's last
    start, end : the columns of the view
    seconds : how long each trace is
    channel : the input channel of the view
    """

    traces: int
    rows: tuple[int, ...]
    start: int
    end: int
    seconds: float
    channel: int = 0

    @property
    def n_times(self) -> int:
        """Samples of each trace."""
        return len(self.rows) // self.traces * (self.end - self.start)

    @property
    def sfreq(self) -> float:
        """Samples a second."""
        return self.n_times / self.seconds


@dataclass(frozen=True, slots=True)
class ModelInput:
    """What a network is given: images of shape (batch, channels, height, width).

    Attributes
    ----------
    channels : 1, 3 that repeat one, or one of each view
    image : height and width, pixels
    traces : where the traces of the ``raw`` view stand in it; None: it shows none
    """

    channels: int = 1
    image: tuple[int, int] = (128, 256)
    traces: TracePlace | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of one image: channels, height, width."""
        return (self.channels, *self.image)
