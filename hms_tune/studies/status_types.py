"""Studies, trials and workers as a person is shown them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from optuna.trial import FrozenTrial, TrialState

from hms_tune.database.fleet import RunningTrial, WorkerRow
from hms_tune.database.queue.end import ENDING_ATTRIBUTE, LINEAGE_ATTRIBUTE, REASON_ATTRIBUTE
from hms_tune.database.studies import DesiredState
from hms_tune.machine.usage import Usage
from hms_tune.studies.attempt_state import KL_HIGH_VOTE, SECONDS, state_of

ABSENT_S = 45.0
"""A worker not seen for this long is shown as silent."""


@dataclass(frozen=True, slots=True)
class BestTrial:
    """The complete trial with the smallest KL."""

    number: int
    value: float
    params: dict[str, Any]
    kl_high_vote: float | None

    @classmethod
    def of(cls, trial: FrozenTrial) -> BestTrial:
        """From a complete Optuna trial."""
        assert trial.value is not None
        return cls(trial.number, trial.value, trial.params, trial.user_attrs.get(KL_HIGH_VOTE))


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """A worker that has not stopped.

    ``wanted`` is ``finish`` or ``leave`` once a person drains it: at the ends of its trials, or at once.
    ``usage`` is what it took of its machine when last seen; ``trials`` are the numbers of those it is at.
    """

    worker_id: str
    host: str
    pid: int
    slots: int
    devices: str
    version: str
    started_at: datetime
    seen_s_ago: float
    state: Literal["working", "silent"]
    wanted: Literal["work", "finish", "leave"]
    usage: Usage | None
    trials: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class StudyStatus:
    """A study at one moment.

    ``trials`` counts Optuna trials, that is attempts, by state; ``units`` counts what the budget counts:
    trials, of which one may have had several attempts. ``failed_because`` counts reasons, ``pruned_in_fold``
    pruned trials by the fold they were in (from 1), ``moved`` the attempts that went on elsewhere.
    ``enqueued`` has the values that wait for a slot; ``hours`` and ``gpu_hours`` are what was used so far.
    ``per_hour`` (trials ended) and ``images_per_second`` are those of the last hour; ``left_s`` is the time
    until the first part of the budget is spent at that speed, and ``ends_at`` the moment.
    """

    study: str
    state: DesiredState
    trials: dict[str, int]
    units: dict[str, int]
    budget_trials: int | None
    budget_hours: float | None
    budget_gpu_hours: float | None
    hours: float | None
    gpu_hours: float
    best: BestTrial | None
    leaders: tuple[BestTrial, ...]
    failed_because: dict[str, int]
    pruned_in_fold: dict[int, int]
    moved: dict[str, int]
    running: tuple[RunningTrial, ...]
    enqueued: tuple[dict[str, Any], ...]
    workers: tuple[WorkerStatus, ...]
    started_at: datetime | None
    per_hour: float | None
    images_per_second: float | None
    left_s: float | None
    ends_at: datetime | None


@dataclass(frozen=True, slots=True)
class StudySummary:
    """One line of ``study list``."""

    study: str
    state: str
    trials: dict[str, int]
    best_value: float | None
    budget_trials: int | None


@dataclass(frozen=True, slots=True)
class TrialSummary:
    """One Optuna trial."""

    number: int
    state: str
    value: float | None
    params: dict[str, Any]
    lineage: int | None
    reason: str | None
    seconds: float | None
    attributes: dict[str, Any]
    reported: dict[int, float]

    @property
    def ending(self) -> str | None:
        """How the attempt ended, as its worker or the recovery wrote it."""
        return self.attributes.get(ENDING_ATTRIBUTE)


def best_of(trials: Sequence[FrozenTrial]) -> BestTrial | None:
    """The best complete trial; of equals the first."""
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE and trial.value is not None]
    return BestTrial.of(min(complete, key=lambda trial: (trial.value, trial.number))) if complete else None


def worker_status(row: WorkerRow, running: Sequence[RunningTrial]) -> WorkerStatus:
    """From a worker's row and the trials that slots are at."""
    return WorkerStatus(
        worker_id=row.worker_id,
        host=row.process.host,
        pid=row.process.pid,
        slots=row.slots,
        devices=row.devices,
        version=row.version,
        started_at=row.started_at,
        seen_s_ago=round(row.silent_s, 1),
        state="silent" if row.silent_s > ABSENT_S else "working",
        wanted=row.wanted,
        usage=None if row.usage is None else Usage.from_json(row.usage),
        trials=tuple(
            trial.number for trial in running if trial.worker_id == row.worker_id and trial.number is not None
        ),
    )


def trial_summary(trial: FrozenTrial, *, reason: str | None = None) -> TrialSummary:
    """From an Optuna trial; ``reason`` is why its lineage ended, where the trial itself does not say so."""
    attributes = trial.user_attrs
    own = attributes.get(REASON_ATTRIBUTE)
    return TrialSummary(
        number=trial.number,
        state=state_of(trial),
        value=trial.value,
        params=trial.params,
        lineage=attributes.get(LINEAGE_ATTRIBUTE),
        reason=own if reason is None or own == reason else f"{own}; {reason}" if own else reason,
        seconds=attributes.get(SECONDS),
        attributes=attributes,
        reported=trial.intermediate_values,
    )
