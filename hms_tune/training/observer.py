"""What an observer is told. Observers never raise into a trial and never slow its steps."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

from hms_tune.config.trial import TrialConfig
from hms_tune.training.events import Event

Outcome = Literal["complete", "pruned", "failed", "handed_back", "lost"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialInfo:
    """Which trial an event belongs to.

    ``number`` is the attempt's Optuna number, ``lineage`` that of the trial's first attempt; ``job_type`` is
    ``trial`` in a search and ``export`` when the best trial is retrained.
    """

    study: str
    number: int
    lineage: int
    config: TrialConfig
    params: dict[str, str | int | float | bool | None]
    slot: str
    job_type: Literal["trial", "export"] = "trial"


class Observer(Protocol):
    """Receives a trial's story in order."""

    def trial_started(self, trial: TrialInfo) -> None:
        """A slot begins (or resumes) a trial."""

    def event(self, trial: TrialInfo, event: Event) -> None:
        """Something happened in the trial; see :mod:`hms_tune.training.events`."""

    def trial_ended(
        self, trial: TrialInfo, outcome: Outcome, value: float | None, reason: str | None
    ) -> None:
        """The trial left the slot. ``value`` is its KL so far or at the end; ``reason`` is one line.

        A trial that was ``lost`` belongs to another worker by now: nothing more is written of it.
        """

    def close(self) -> None:
        """The slot stops."""


@runtime_checkable
class KeepsBundles(Protocol):
    """An observer that also wants the bundle of an export."""

    def bundle_written(self, trial: TrialInfo, path: Path) -> None:
        """The trial's bundle lies at ``path``."""


def first_line(error: Exception) -> str:
    """The first line of an error's text, or its kind if it has none."""
    return (str(error).splitlines() or [type(error).__name__])[0]
