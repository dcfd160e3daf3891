"""How much of its budget a study has used, how fast it goes on, and when it will be done."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from hms_tune.database.connect import Storage, Transaction
from hms_tune.database.queries import totals
from hms_tune.database.queries.hours import seconds_at_work
from hms_tune.database.queries.patience import GainPatience, patience_used
from hms_tune.database.queries.studies import StudyRow, study_row
from hms_tune.database.queue.usage import gpu_hours_used
from hms_tune.trial_state import ENDED, TrialState

RECENT_S = 3600.0
"""Speeds are those of this much time, as far as the study was at work in it."""

StudyState = Literal["running", "idle", "paused", "stopped", "finished"]
"""How a study stands, wherever people are told: at work; nobody at work; what people requested; over."""


@dataclass(frozen=True, slots=True)
class StudyTotals:
    """A study's budget and what was used of it, added up at one moment.

    ``trials`` are counted by state. ``seconds`` is how long at least one slot was at work.
    """

    row: StudyRow
    trials: dict[TrialState, int]
    seconds: float
    gpu_hours: float
    recent: totals.RecentWork
    patience: GainPatience

    @property
    def ended(self) -> int:
        """Trials that are over; an infeasible draw is none."""
        return sum(self.trials[state] for state in ENDED)

    @property
    def unended(self) -> int:
        """Trials that a slot has, or that wait for one."""
        return sum(number for state, number in self.trials.items() if not state.is_final)

    @property
    def trials_per_hour(self) -> float | None:
        """Trials that end in an hour of work: lately, or on average in a study that stood still lately."""
        if self.recent.trials_ended and self.recent.seconds:
            return 3600.0 * self.recent.trials_ended / self.recent.seconds
        return 3600.0 * self.ended / self.seconds if self.ended and self.seconds else None

    @property
    def images_per_second(self) -> float | None:
        """Images that are trained in a second, lately; None if no worker counted any."""
        if not self.recent.seconds or self.recent.images is None:
            return None
        return self.recent.images / self.recent.seconds

    @property
    def seconds_left(self) -> float | None:
        """Work until the first part of the budget is spent at this speed, s; None if nobody can tell.

        Before a trial has ended nobody knows how long one takes, and hours alone would promise too much.
        """
        row, left = self.row, []
        if row.budget_trials is not None and not self.ended:
            return None
        if row.budget_trials is not None and self.trials_per_hour:
            left.append(3600.0 * max(0, row.budget_trials - self.ended) / self.trials_per_hour)
        if row.budget_hours is not None and row.started_at is not None:
            left.append(max(0.0, 3600.0 * row.budget_hours - self.seconds))
        if row.budget_gpu_hours is not None and self.recent.gpus > 0:
            left.append(3600.0 * max(0.0, row.budget_gpu_hours - self.gpu_hours) / self.recent.gpus)
        return min(left, default=None)

    @property
    def ends_at(self) -> datetime | None:
        """The moment at which the first part of the budget is spent, by the database's clock."""
        left_s, read_at = self.seconds_left, self.row.read_at
        return None if left_s is None or read_at is None else read_at + timedelta(seconds=left_s)

    @property
    def shares_used(self) -> dict[str, float]:
        """Which share of each limited part of the budget is used, 0 to 1 and beyond."""
        row, used = self.row, {}
        if row.budget_trials:
            used["trials"] = self.ended / row.budget_trials
        if row.budget_hours:
            used["hours"] = self.seconds / 3600.0 / row.budget_hours
        if row.budget_gpu_hours:
            used["gpu_hours"] = self.gpu_hours / row.budget_gpu_hours
        return used

    @property
    def is_spent(self) -> bool:
        """Whether a limit of the budget is reached, so that no attempt begins unless it is raised."""
        used = self.shares_used
        if used.get("hours", 0.0) >= 1.0 or used.get("gpu_hours", 0.0) >= 1.0:
            return True
        if self.patience.is_over and not self.unended:
            return True
        limit = self.row.budget_trials
        return limit is not None and not self.unended and self.ended >= limit

    @property
    def is_finished(self) -> bool:
        """Whether a limit of the budget is reached and nothing runs any more."""
        return self.is_spent and not self.recent.running

    def state(self, *, at_work: bool) -> StudyState:
        """How the study stands.

        Parameters
        ----------
        at_work : whether a worker is at it
        """
        if self.is_finished:
            return "finished"
        if self.row.state != "running":
            return self.row.state
        return "running" if at_work else "idle"


def study_totals(connection: Transaction, study_id: int) -> StudyTotals:
    """A study's totals; all are 0, and there is no budget, if no worker ever joined it."""
    row = study_row(connection, study_id) or StudyRow(study_id=study_id)
    return StudyTotals(
        row=row,
        trials=totals.trials_by_state(connection, study_id),
        seconds=seconds_at_work(connection, study_id),
        gpu_hours=gpu_hours_used(connection, study_id),
        recent=totals.recent_work(connection, study_id, recent_s=RECENT_S),
        patience=patience_used(connection, study_id, row.budget_patience),
    )


def has_work(storage: Storage, study_id: int) -> bool:
    """Whether a worker that joins the study now finds something to do, now or when another gives up a trial.

    A study that a person stopped has nothing to do until it is resumed.
    """
    with storage.transaction() as connection:
        totals = study_totals(connection, study_id)
    return totals.row.state != "stopped" and not totals.is_spent


def best_of_study(storage: Storage, study: str) -> Callable[[], float | None]:
    """What asks the database for the study's best KL so far."""

    def ask() -> float | None:
        study_id = int(storage.optuna.get_study_id_from_name(study))
        with storage.transaction() as connection:
            leader = totals.leader(connection, study_id)
        return None if leader is None else leader.value

    return ask
