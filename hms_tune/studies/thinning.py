"""Of a stream of any length, what a picture shows: some of all, and those that none came before or beat."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import Generic, TypeVar

T = TypeVar("T")


class Sample(Generic[T]):
    """Items at even distances, at most so many. From when there are more, at least half as many.

    Attributes
    ----------
    kept : these, in their order
    one_in : of so many items one is kept
    """

    def __init__(self, most: int) -> None:
        self.kept: list[T] = []
        self.one_in = 1
        self._most, self._seen = most, 0

    def add(self, item: T) -> None:
        """Take in the next item."""
        if self._seen % self.one_in == 0:
            if len(self.kept) == self._most:
                self.kept = self.kept[::2]
                self.one_in *= 2
            if self._seen % self.one_in == 0:
                self.kept.append(item)
        self._seen += 1


class Front(Generic[T]):
    """Items of which no other has an ``x`` as small and a ``y`` as small.

    Attributes
    ----------
    items : these, by ``x``; of equal ones the first that came
    """

    def __init__(self) -> None:
        self.items: list[T] = []
        self._x: list[float] = []
        self._y: list[float] = []

    def add(self, x: float, y: float, item: T) -> None:
        """Take in the next item."""
        before = bisect_right(self._x, x)
        if before and self._y[before - 1] <= y:
            return
        start = end = bisect_left(self._x, x)
        while end < len(self._y) and self._y[end] >= y:
            end += 1
        self._x[start:end], self._y[start:end], self.items[start:end] = [x], [y], [item]
