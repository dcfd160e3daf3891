"""Standard error for what runs for days: a full disk or a closed terminal costs lines, and no trial."""

from __future__ import annotations

import errno
import sys
from typing import Any, TextIO, cast

from rich.console import Console

from hms_tune.machine.terminal import Terminal

_LOSES_LINES = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EPIPE)
"""No room on a disk; the terminal is closed; the reader of a pipe has gone."""


class _ErrorStream:
    """Standard error as it is at each moment, whose writes never fail for want of room or of a reader."""

    @property
    def rich_proxied_file(self) -> _ErrorStream:
        """Where rich writes while a live display stands in for standard error: here, not past this."""
        return self

    def write(self, text: str) -> int:
        try:
            return _behind_displays().write(text)
        except OSError as error:
            _unless_lost(error)
            return len(text)

    def flush(self) -> None:
        try:
            _behind_displays().flush()
        except OSError as error:
            _unless_lost(error)

    def __getattr__(self, name: str) -> Any:
        return getattr(sys.stderr, name)


def _behind_displays() -> TextIO:
    """Standard error itself: a live display that stands in for it would print what it is given here again."""
    return cast("TextIO", getattr(sys.stderr, "rich_proxied_file", sys.stderr))


def error_console() -> Console:
    """A console on standard error that goes on where a log file's disk is full or nobody reads any more."""
    return Terminal(file=cast("TextIO", _ErrorStream()))


def _unless_lost(error: OSError) -> None:
    if error.errno not in _LOSES_LINES:
        raise error
