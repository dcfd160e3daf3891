"""How a slot is asked to stop, and what happens to the step it is in.

Asked to stop, a slot ends at the next event of its trial. An epoch may take minutes, so after a grace the
step itself is cut: the trial continues elsewhere from the epoch before, whose checkpoint is whole.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

STEP_GRACE_S = 8.0
"""How long a step may go on after a request to stop."""


ORPHAN_S = 20.0
"""A slot or rank without its supervisor is gone after this many seconds at the latest."""


class StepCut(BaseException):
    """Raised inside a training step that outlasted the grace. Not an ``Exception``: no trial may catch it."""


class Stop:
    """A request to stop, shared by whoever asks and the slot."""

    def __init__(self) -> None:
        self._requested = threading.Event()
        self._in_step = False

    @property
    def requested(self) -> bool:
        """Whether the slot is to end."""
        return self._requested.is_set()

    def request(self) -> None:
        """Ask the slot to end at the next event."""
        self._requested.set()

    def wait(self, seconds: float) -> bool:
        """Sleep, unless asked to stop; returns whether it was."""
        return self._requested.wait(seconds)

    @contextmanager
    def step(self) -> Iterator[None]:
        """Mark what may be cut: computing, never writing to the database."""
        self._in_step = True
        try:
            yield
        finally:
            self._in_step = False

    def cut(self) -> None:
        """End the step in progress, if there is one. Called by a signal handler in the slot's main thread."""
        if self._in_step:
            raise StepCut
