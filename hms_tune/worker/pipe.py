"""The messages of a slot's process to its supervisor, over a pipe of its own.

Each slot has a pipe, and no queue is shared: a slot that is killed while it writes can block no other.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection

from hms_tune.errors import HmsTuneError
from hms_tune.training.events import Event
from hms_tune.training.observer import TrialInfo
from hms_tune.trial_state import AttemptState


@dataclass(frozen=True, slots=True)
class TrialStarted:
    """A slot begins a trial."""

    trial: TrialInfo


@dataclass(frozen=True, slots=True)
class TrialEvent:
    """Something happened in a trial."""

    trial: TrialInfo
    event: Event


@dataclass(frozen=True, slots=True)
class TrialEnded:
    """A trial left its slot."""

    trial: TrialInfo
    state: AttemptState
    value: float | None
    reason: str | None


@dataclass(frozen=True, slots=True)
class LogLine:
    """A line for the worker's log."""

    name: str
    level: int
    text: str


@dataclass(frozen=True, slots=True)
class SlotFailed:
    """The slot ends with an error that a restart would not fix."""

    error: HmsTuneError


Message = TrialStarted | TrialEvent | TrialEnded | LogLine | SlotFailed


class PipeObserver:
    """Sends a trial's events to the supervisor. A supervisor that is gone stops no trial."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe

    def send(self, message: Message) -> None:
        """Send a message, if anybody is there."""
        with suppress(OSError):
            self._pipe.send(message)

    def trial_started(self, trial: TrialInfo) -> None:
        """Forward it."""
        self.send(TrialStarted(trial))

    def event(self, trial: TrialInfo, event: Event) -> None:
        """Forward it."""
        self.send(TrialEvent(trial, event))

    def trial_ended(
        self, trial: TrialInfo, state: AttemptState, value: float | None, reason: str | None
    ) -> None:
        """Forward it."""
        self.send(TrialEnded(trial, state, value, reason))

    def close(self) -> None:
        """Nothing is held open."""


class PipeLogHandler(logging.Handler):
    """Sends log records to the supervisor, which owns the terminal."""

    def __init__(self, observer: PipeObserver) -> None:
        super().__init__()
        self._observer = observer

    def emit(self, record: logging.LogRecord) -> None:
        """Forward the record's text."""
        self._observer.send(LogLine(record.name, record.levelno, record.getMessage()))


def log_to_pipe(observer: PipeObserver) -> None:
    """Let the supervisor write this process's log."""
    logging.basicConfig(level=logging.WARNING, handlers=[PipeLogHandler(observer)], force=True)
