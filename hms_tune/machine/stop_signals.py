"""Signals that ask a process to stop."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP)
"""USR1 or USR2 is what SLURM is asked to send before the end, HUP a terminal that is closed."""


def leave_signals_to_the_worker() -> None:
    """Ignore what asks to stop: it reaches the whole process group, and the worker answers for all of it."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


@contextmanager
def ended_as_by_ctrl_c() -> Iterator[None]:
    """Within the block SIGTERM and a closed terminal unwind the command as Ctrl-C does.

    By default they end the process on the spot, with whatever lies half-written. A signal that is ignored,
    as SIGHUP is under nohup, stays ignored.
    """
    numbers = [
        number for number in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(number) is not signal.SIG_IGN
    ]
    before = {number: signal.signal(number, signal.default_int_handler) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
