"""Signals that ask a process to stop."""

from __future__ import annotations

import signal

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)
"""USR1 is what SLURM sends before the end, HUP a terminal that is closed."""


def leave_signals_to_the_worker() -> None:
    """Ignore what asks to stop: it reaches the whole process group, and the worker answers for all of it."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
