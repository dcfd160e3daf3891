"""Studies, trials and workers as a person is shown them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from optuna.trial import FrozenTrial
from optuna.trial import TrialState as OptunaState

from hms_tune.database.optuna_trial import (
    KL_HIGH_VOTE_ATTRIBUTE,
    REASON_ATTRIBUTE,
    SECONDS_ATTRIBUTE,
    attempt_state,
    trial_number,
)
from hms_tune.database.queries.confirmations import ConfirmationProgress
from hms_tune.database.queries.patience import GainPatience
from hms_tune.database.queries.workers import RunningTrial, WorkerRow
from hms_tune.machine.processes import this_process
from hms_tune.machine.usage import Usage
from hms_tune.studies.standing import Estimate, Standing
from hms_tune.studies.totals import StudyState
from hms_tune.training.optimism.correction import Corrected
from hms_tune.trial_state import AttemptState, TrialState

FOREIGN: Literal["not made by hms-tune"] = "not made by hms-tune"
"""The state of a study that another program made."""

ABSENT_S = 45.0
"""A worker not seen for this long is shown as silent."""


@dataclass(frozen=True, slots=True)
class BestTrial:
    """The best complete trial: of ours, the one with the smallest KL.

    ``trial`` and ``attempt`` are numbers.
    """

    trial: int
    attempt: int
    value: float
    params: dict[str, Any]
    kl_high_vote: float | None

    @classmethod
    def of(cls, trial: FrozenTrial) -> BestTrial:
        """From a complete Optuna trial."""
        assert trial.value is not None
        return cls(
            trial=trial_number(trial),
            attempt=trial.number,
            value=trial.value,
            params=trial.params,
            kl_high_vote=trial.user_attrs.get(KL_HIGH_VOTE_ATTRIBUTE),
        )


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """A worker that has not stopped.

    ``requested`` is ``finish`` or ``leave`` once a person drains it: at the ends of its trials, or at once.
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
    requested: Literal["work", "finish", "leave"]
    usage: Usage | None
    trials: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class StudyStatus:
    """A study at one moment.

    ``state`` is how it stands, or that the study was not made by hms-tune.
    ``trials`` and ``attempts`` are counted by state; a trial may have several. ``failed_because`` counts
    reasons, ``pruned_in_fold`` pruned trials by the fold they were in (from 1).
    ``enqueued`` has the values that wait for a slot; ``hours`` and ``gpu_hours`` are what was used so far:
    ``hours`` are those in which a slot was at work; ``patience`` is how little the latest draws promised.
    ``corrected`` is the best trial's score without what choosing it flatters, None where that is not known.
    ``confirmation`` is how far the leading trials have been trained again, None unless somebody asked for it.
    ``standing`` is what estimates are held against; ``folds`` and ``epochs`` are the most of a trial and of a
    fold, 0 where no trial runs. ``per_hour`` (trials ended) and ``images_per_second`` are those of the last
    hour; ``left_s`` is the work until the first part of the budget is spent at that speed, and ``ends_at``
    the moment, while workers are at work.
    """

    study: str
    state: StudyState | Literal["not made by hms-tune"]
    trials: dict[TrialState, int]
    attempts: dict[AttemptState, int]
    budget_trials: int | None
    budget_hours: float | None
    budget_gpu_hours: float | None
    hours: float
    gpu_hours: float
    patience: GainPatience
    best: BestTrial | None
    leaders: tuple[BestTrial, ...]
    failed_because: dict[str, int]
    pruned_in_fold: dict[int, int]
    running: tuple[RunningTrial, ...]
    standing: Standing
    folds: int
    epochs: int
    enqueued: tuple[dict[str, Any], ...]
    workers: tuple[WorkerStatus, ...]
    started_at: datetime | None
    per_hour: float | None
    images_per_second: float | None
    left_s: float | None
    ends_at: datetime | None
    confirmation: ConfirmationProgress | None = None
    corrected: Corrected | None = None


@dataclass(frozen=True, slots=True)
class StudySummary:
    """One line of ``study list``.

    ``trials`` are counted by state, in a study of another program its Optuna trials. ``best_value`` is best
    in the study's own direction; None also where a study has several objectives.
    """

    study: str
    state: StudyState | Literal["not made by hms-tune"]
    trials: dict[TrialState, int] | dict[AttemptState, int]
    best_value: float | None
    budget_trials: int | None


@dataclass(frozen=True, slots=True)
class TrialSummary:
    """One attempt. ``trial`` and ``attempt`` are numbers.

    ``value`` is the score of a complete one; ``estimate`` is what one came to that was trained in part.
    """

    trial: int
    attempt: int
    state: AttemptState
    value: float | None
    estimate: Estimate | None
    params: dict[str, Any]
    reason: str | None
    seconds: float | None
    attributes: dict[str, Any]
    reported: dict[int, float]


def is_working(row: WorkerRow) -> bool:
    """Whether a worker was seen a moment ago, and its process is not known to be gone."""
    return row.silent_s <= ABSENT_S and not row.is_gone(this_process())


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
        state="working" if is_working(row) else "silent",
        requested=row.requested,
        usage=None if row.usage is None else Usage.from_json(row.usage),
        trials=tuple(
            each.trial for each in running if each.worker_id == row.worker_id and each.trial is not None
        ),
    )


def trial_summary(
    trial: FrozenTrial,
    estimate: Estimate | None,
    state: TrialState | None = None,
    reason: str | None = None,
) -> TrialSummary:
    """From an Optuna trial; ``state`` and ``reason`` are how our trial ended, if it ended after that one."""
    attributes = trial.user_attrs
    own = attributes.get(REASON_ATTRIBUTE)
    return TrialSummary(
        trial=trial_number(trial),
        attempt=trial.number,
        state=attempt_state(trial) if state is None else AttemptState(state),
        value=trial.value if trial.state is OptunaState.COMPLETE else None,
        estimate=estimate,
        params=trial.params,
        reason=own if reason is None or own == reason else f"{own}; {reason}" if own else reason,
        seconds=attributes.get(SECONDS_ATTRIBUTE),
        attributes=attributes,
        reported=trial.intermediate_values,
    )
