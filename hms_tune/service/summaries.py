"""Studies, trials and workers as a person is shown them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import Row

from hms_tune.search.feasibility import is_declined
from hms_tune.service.leases import DesiredState

STATES = ("complete", "pruned", "failed", "declined", "running", "waiting")
_NAMES = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
    TrialState.WAITING: "waiting",
}

ABSENT_S = 45.0
"""A worker not seen for this long is shown as silent."""


@dataclass(frozen=True, slots=True)
class BestTrial:
    """The complete trial with the smallest KL."""

    number: int
    value: float
    params: dict[str, Any]
    kl_high_vote: float | None


@dataclass(frozen=True, slots=True)
class RunningTrial:
    """A trial that a slot is at. ``wanted`` is ``stop`` once a person has stopped it."""

    number: int | None
    lineage: int | None
    slot: str
    host: str
    gpus: float
    started_at: datetime
    expires_in_s: float
    wanted: Literal["run", "stop"]


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """A worker that has not stopped.

    ``wanted`` is ``finish`` or ``leave`` once a person drains it: at the ends of its trials, or at once.
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


@dataclass(frozen=True, slots=True)
class StudyStatus:
    """A study at one moment.

    ``trials`` counts Optuna trials, that is attempts, by state; ``units`` counts what the budget counts:
    trials, of which one may have had several attempts. ``enqueued`` has the values that wait for a slot;
    ``hours`` and ``gpu_hours`` are what was used so far. ``per_hour`` is how many trials ended in an hour
    since the first began; ``left_s`` the time the rest of the budget takes at that speed.
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
    running: tuple[RunningTrial, ...]
    enqueued: tuple[dict[str, Any], ...]
    workers: tuple[WorkerStatus, ...]
    started_at: datetime | None
    per_hour: float | None
    left_s: float | None


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


def count_states(trials: Sequence[FrozenTrial]) -> dict[str, int]:
    """How many trials are in each state; every state is named."""
    counted = Counter(_name(trial) for trial in trials)
    return {state: counted[state] for state in STATES}


def _name(trial: FrozenTrial) -> str:
    return "declined" if is_declined(trial) else _NAMES[trial.state]


def best_of(trials: Sequence[FrozenTrial]) -> BestTrial | None:
    """The best complete trial; of equals the first."""
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE and trial.value is not None]
    if not complete:
        return None
    best = min(complete, key=lambda trial: (trial.value, trial.number))
    assert best.value is not None
    return BestTrial(best.number, best.value, best.params, best.user_attrs.get("kl_high_vote"))


def running_trial(row: Row[Any]) -> RunningTrial:
    """From a lease with its lineage."""
    return RunningTrial(
        number=row.number,
        lineage=row.first_number,
        slot=row.slot,
        host=row.host,
        gpus=row.gpus,
        started_at=row.claimed_at,
        expires_in_s=round(float(row.left_s), 1),
        wanted=row.wanted,
    )


def worker_status(row: Row[Any]) -> WorkerStatus:
    """From a worker's row."""
    ago = float(row.ago_s)
    return WorkerStatus(
        worker_id=row.worker_id,
        host=row.host,
        pid=row.pid,
        slots=row.slots,
        devices=row.devices,
        version=row.version,
        started_at=row.started_at,
        seen_s_ago=round(ago, 1),
        state="silent" if ago > ABSENT_S else "working",
        wanted=row.wanted,
    )


def trial_summary(trial: FrozenTrial, *, reason: str | None = None) -> TrialSummary:
    """From an Optuna trial; ``reason`` is why its lineage ended, where the trial itself does not say so."""
    attributes = trial.user_attrs
    own = attributes.get("reason")
    return TrialSummary(
        number=trial.number,
        state=_name(trial),
        value=trial.value,
        params=trial.params,
        lineage=attributes.get("lineage"),
        reason=own if reason is None or own == reason else f"{own}; {reason}" if own else reason,
        seconds=attributes.get("seconds"),
        attributes=attributes,
        reported=trial.intermediate_values,
    )
