"""How far long work is, and how long it takes, for people who read a file and not a terminal."""

from __future__ import annotations

import time
from collections.abc import Callable

ProgressCallback = Callable[[int, int], None]
"""Told how much is done, and of how much: files, bytes or rows, as the work counts them."""

FIRST_S = 10.0
"""Work that is done sooner says nothing, s."""

LONGEST_S = 600.0
"""Longest time between two lines, s."""


def duration(seconds: float) -> str:
    """``0:07``, ``12:30``, ``3:05:00``, or ``4d 03:20`` from the third day on."""
    minutes, second = divmod(max(0, round(seconds)), 60)
    hour, minute = divmod(minutes, 60)
    if hour >= 48:
        return f"{hour // 24}d {hour % 24:02d}:{minute:02d}"
    return f"{hour}:{minute:02d}:{second:02d}" if hour else f"{minute}:{second:02d}"


class GrowingPauses:
    """Says when a next line is due: after 10 s, then 20, 40, and so on, at last every ten minutes."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self._since, self._pause = clock(), FIRST_S

    def is_due(self) -> bool:
        """Whether the pause is over; then a longer one begins."""
        now = self.clock()
        if now - self._since < self._pause:
            return False
        self._since, self._pause = now, min(LONGEST_S, 2 * self._pause)
        return True


class ProgressLines:
    """Progress as lines at growing intervals, and one at the end if there were others.

    Parameters
    ----------
    what : the work, such as ``preparing``
    of : what is counted
    say : takes a line
    amount : a count as people read it
    """

    def __init__(
        self,
        what: str,
        of: str,
        say: Callable[[str], None],
        *,
        amount: Callable[[int], str] = "{:,}".format,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._what, self._of, self._say, self._amount = what, of, say, amount
        self._pauses = GrowingPauses(clock)
        self._began = clock()
        self._first: int | None = None
        self._has_said = False

    def update(self, done: int, total: int) -> None:
        """Take in how much of all is done."""
        if self._first is None:  # what an earlier run did took none of this one's time
            self._first = done
        if done >= total:
            if self._has_said:
                self._has_said = False
                self._say(
                    f"{self._what}: {self._amount(total)} {self._of} in {duration(self._seconds)}".rstrip()
                )
        elif self._pauses.is_due():
            self._has_said = True
            self._say(self._line(done, total))

    @property
    def _seconds(self) -> float:
        return self._pauses.clock() - self._began

    def _line(self, done: int, total: int) -> str:
        counted = f"{self._amount(done)} of {self._amount(total)} {self._of}".rstrip()
        line = f"{self._what}: {counted} after {duration(self._seconds)}"
        since = done - (self._first or 0)
        if since > 0:
            line += f", about {duration(self._seconds * (total - done) / since)} left"
        return line
