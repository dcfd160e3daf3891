"""Where things stand in an image: panels one above the other, traces cut into lines."""

from __future__ import annotations

from dataclasses import dataclass


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
    """

    traces: int
    rows: tuple[int, ...]
    start: int
    end: int
    seconds: float

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
    channels : 1, or 3 that are views of one
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
