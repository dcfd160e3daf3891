"""Curves in a terminal, drawn with braille dots: two across and four down in each character."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from rich.text import Text

COLOURS = ("cyan", "yellow", "green", "magenta", "blue", "red")
_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
_BLANK = 0x2800


@dataclass(frozen=True, slots=True)
class Curve:
    """A named line through points; ``x`` ascends. Points that are not finite are left out."""

    name: str
    x: Sequence[float]
    y: Sequence[float]

    def points(self) -> list[tuple[float, float]]:
        """The points that can be drawn."""
        return [(x, y) for x, y in zip(self.x, self.y, strict=True) if math.isfinite(y)]


def draw_curves(curves: Sequence[Curve], *, width: int, height: int, title: str) -> Text:
    """Curves in one frame, each in its own colour, with the y range at the left and a legend above.

    Parameters
    ----------
    width, height : size in characters, the labels within ``width``, title and x labels beyond ``height``
    """
    drawn = [(curve, points) for curve in curves if (points := curve.points())]
    text = Text(title, style="bold")
    for index, (curve, _) in enumerate(drawn):
        text.append(f"  ━ {curve.name}", style=COLOURS[index % len(COLOURS)])
    if not drawn:
        return text.append("\nnothing to draw yet", style="dim")
    xs = [x for _, points in drawn for x, _ in points]
    ys = [y for _, points in drawn for _, y in points]
    low, high = _span(ys)
    labels = [f"{high:.3g}", f"{low:.3g}"]
    margin = max(map(len, labels)) + 1
    canvas = _Canvas(width - margin - 1, height, (min(xs), max(xs)), (low, high))
    for index, (_, points) in enumerate(drawn):
        canvas.line(points, index)
    for row in range(height):
        label = labels[0] if row == 0 else labels[1] if row == height - 1 else ""
        text.append(f"\n{label.rjust(margin)}", style="dim").append("│", style="dim")
        canvas.append_row(text, row)
    first, last = f"{min(xs):g}", f"{max(xs):g}"
    gap = " " * max(1, width - margin - 1 - len(first) - len(last))
    text.append(f"\n{' ' * margin}└{first}{gap}{last}", style="dim")
    return text


def _span(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    return (low, high) if high > low else (low - 0.5, high + 0.5)


class _Canvas:
    """Dots, and which curve drew last in each character."""

    def __init__(self, width: int, height: int, x: tuple[float, float], y: tuple[float, float]) -> None:
        self.width, self.height = max(width, 4), height
        self._x, self._y = _span(x), y
        self._dots = [[0] * self.width for _ in range(height)]
        self._owner = [[-1] * self.width for _ in range(height)]

    def line(self, points: Sequence[tuple[float, float]], owner: int) -> None:
        """Draw straight lines from point to point."""
        places = [self._place(*point) for point in points]
        self._dot(*places[0], owner)
        for (x0, y0), (x1, y1) in pairwise(places):
            steps = max(abs(x1 - x0), abs(y1 - y0), 1)
            for step in range(1, steps + 1):
                share = step / steps
                self._dot(round(x0 + share * (x1 - x0)), round(y0 + share * (y1 - y0)), owner)

    def append_row(self, text: Text, row: int) -> None:
        """Add one row of characters to a text."""
        for dots, owner in zip(self._dots[row], self._owner[row], strict=True):
            text.append(chr(_BLANK + dots), style=COLOURS[owner % len(COLOURS)] if owner >= 0 else "")

    def _place(self, x: float, y: float) -> tuple[int, int]:
        across = (x - self._x[0]) / (self._x[1] - self._x[0])
        up = (y - self._y[0]) / (self._y[1] - self._y[0])
        return round(across * (2 * self.width - 1)), round((1 - up) * (4 * self.height - 1))

    def _dot(self, x: int, y: int, owner: int) -> None:
        self._dots[y // 4][x // 2] |= _DOTS[y % 4][x % 2]
        self._owner[y // 4][x // 2] = owner
