"""Standard error for what runs for days: a full disk behind it costs lines, and no trial."""

from __future__ import annotations

import errno
import sys
from typing import Any, TextIO, cast

from rich.console import Console

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


class _ErrorStream:
    """Standard error as it is at each moment, whose writes never fail for want of room."""

    def write(self, text: str) -> int:
        try:
            return sys.stderr.write(text)
        except OSError as error:
            _unless_full(error)
            return len(text)

    def flush(self) -> None:
        try:
            sys.stderr.flush()
        except OSError as error:
            _unless_full(error)

    def __getattr__(self, name: str) -> Any:
        return getattr(sys.stderr, name)


def error_console() -> Console:
    """A console on standard error that goes on where a log file's disk is full."""
    return Console(file=cast("TextIO", _ErrorStream()))


def _unless_full(error: OSError) -> None:
    if error.errno not in _NO_ROOM:
        raise error
