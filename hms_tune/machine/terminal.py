"""The way to the terminal, on which no text can do more than be read.

Names, reasons and tracebacks come from the database, keys from study files, file names from folders. A
control character in one of them would move the cursor, retitle the window, or type for the user. They are
dropped here, also where the output goes to a file, which somebody will look at in a terminal.
"""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Iterable
from typing import Any, TextIO, cast

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

# Control characters but tab and newline, and those that turn the direction of writing around.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    """The text without control characters; tabs and newlines stay."""
    return _CONTROL.sub("", text)


class Terminal(Console):
    """A rich console whose texts hold no control characters; its colours and cursor movements are its own."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Render without control characters in the text."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(printable(segment.text), segment.style)


class _Stream:
    """A text stream that drops control characters. Consoles, which bring none, write past it."""

    def __init__(self, stream: TextIO) -> None:
        self.rich_proxied_file = stream

    def write(self, text: str) -> int:
        self.rich_proxied_file.write(printable(text))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        if name == "buffer":  # click would write past the filter into it, where the encoding is ASCII
            raise AttributeError(name)
        return getattr(self.rich_proxied_file, name)


def guard_streams() -> None:
    """Let whatever this process prints, logs or dies with hold no control characters.

    A letter that the locale's encoding lacks (µ, a bar) becomes a question mark; it would be a traceback.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.encoding.lower() != "utf-8":
            stream.reconfigure(errors="replace")
    sys.stdout = cast("TextIO", _Stream(sys.stdout))
    sys.stderr = cast("TextIO", _Stream(sys.stderr))
