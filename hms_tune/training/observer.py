"""What an observer is told. Observers never raise into a trial and never slow its steps."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

from hms_tune.config.trial import TrialConfig
from hms_tune.training.events import Event
from hms_tune.trial_state import AttemptState

JobType = Literal["trial", "fold", "export", "training"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialInfo:
    """Which trial an event belongs to.

    ``trial`` and ``attempt`` are numbers, the trial's that of its first attempt; ``job_type`` is ``trial`` in
    a search, ``fold`` where a worker trains one fold for another's attempt, ``export`` when the best trial is
    retrained, and ``training`` outside of a search.
    """

    study: str
    trial: int
    attempt: int
    config: TrialConfig
    params: dict[str, str | int | float | bool | None]
    slot: str
    job_type: JobType = "trial"


class Observer(Protocol):
    """Receives a trial's story in order."""

    def trial_started(self, trial: TrialInfo) -> None:
        """A slot begins (or resumes) a trial."""

    def event(self, trial: TrialInfo, event: Event) -> None:
        """Something happened in the trial; see :mod:`hms_tune.training.events`."""

    def trial_ended(
        self, trial: TrialInfo, state: AttemptState, value: float | None, reason: str | None
    ) -> None:
        """The attempt ended. ``value`` is its KL so far or at the end; ``reason`` is one line.

        If it was lost, its trial belongs to another worker by now: nothing more is written of it.
        """

    def close(self) -> None:
        """The slot stops."""


@runtime_checkable
class KeepsBundles(Protocol):
    """An observer that also wants the bundle of an export."""

    def bundle_written(self, trial: TrialInfo, path: Path) -> None:
        """The trial's bundle lies at ``path``."""
