"""Progress and log on standard error."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from hms_tune.machine.progress import ProgressLines
from hms_tune.machine.terminal import Terminal


@contextmanager
def progress_bar(what: str, of: str, console: Console | None = None) -> Iterator[Callable[[int, int], None]]:
    """A bar, moved by ``update(done, total)``; in what is no terminal, lines at growing intervals."""
    console = console or Terminal(stderr=True)
    if not console.is_terminal:
        yield ProgressLines(what, of, line_to(console)).update
        return
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TextColumn(of), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(what, total=None)

        def update(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        yield update


def line_to(console: Console) -> Callable[[str], None]:
    """What prints a line there."""
    return lambda line: console.print(Text(line), soft_wrap=True)


def log_to(console: Console) -> None:
    """Log to the console that draws progress, so that lines do not break the bar."""
    handler = _ConsoleHandler(console)
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("hms_tune").setLevel(logging.INFO)


class _ConsoleHandler(logging.Handler):
    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        prefix = "warning: " if record.levelno == logging.WARNING else ""
        prefix = "error: " if record.levelno > logging.WARNING else prefix
        self._console.print(Text(f"{prefix}{record.getMessage()}"), soft_wrap=True)
