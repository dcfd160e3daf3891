"""How much of its budget a study has used, how fast it goes on, and when it will be done."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from hms_tune.database.connect import Storage, Transaction
from hms_tune.database.queries import totals
from hms_tune.database.queries.patience import Patience, patience_used
from hms_tune.database.queries.studies import StudyRow, study_row
from hms_tune.database.queue.claim import gpu_hours_used
from hms_tune.trial_state import ENDED, TrialState

RECENT_S = 3600.0
"""Speeds are those of this much time, or of the study's age if it is younger."""


@dataclass(frozen=True, slots=True)
class StudyTotals:
    """A study's budget and what was used of it, added up at one moment. ``trials`` are counted by state."""

    row: StudyRow
    trials: dict[TrialState, int]
    gpu_hours: float
    recent: totals.RecentWork
    patience: Patience

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
        """Trials that end in an hour: lately, or on average in a study that stood still lately."""
        age_s = self.row.age_s
        if not age_s:
            return None
        if self.recent.trials_ended:
            return 3600.0 * self.recent.trials_ended / min(RECENT_S, age_s)
        return 3600.0 * self.ended / age_s if self.ended else None

    @property
    def images_per_second(self) -> float | None:
        """Images that are trained in a second, lately; None if no worker counted any."""
        if not self.row.age_s or self.recent.images is None:
            return None
        return self.recent.images / min(RECENT_S, self.row.age_s)

    @property
    def seconds_left(self) -> float | None:
        """When the first part of the budget is spent at this speed, s from now; None if nobody can tell."""
        row, left = self.row, []
        if row.budget_trials is not None and self.trials_per_hour:
            left.append(3600.0 * max(0, row.budget_trials - self.ended) / self.trials_per_hour)
        if row.budget_hours is not None and row.age_s is not None:
            left.append(max(0.0, 3600.0 * row.budget_hours - row.age_s))
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
        if row.budget_hours and row.age_s is not None:
            used["hours"] = row.age_s / 3600.0 / row.budget_hours
        if row.budget_gpu_hours:
            used["gpu_hours"] = self.gpu_hours / row.budget_gpu_hours
        return used

    @property
    def is_finished(self) -> bool:
        """Whether a limit of the budget is reached and nothing runs any more."""
        if self.recent.running:
            return False
        used = self.shares_used
        if used.get("hours", 0.0) >= 1.0 or used.get("gpu_hours", 0.0) >= 1.0:
            return True
        if self.patience.is_over and not self.unended:
            return True
        limit = self.row.budget_trials
        return limit is not None and not self.unended and self.ended >= limit


def study_totals(connection: Transaction, study_id: int) -> StudyTotals:
    """A study's totals; all are 0, and there is no budget, if no worker ever joined it."""
    row = study_row(connection, study_id) or StudyRow(study_id=study_id)
    return StudyTotals(
        row=row,
        trials=totals.trials_by_state(connection, study_id),
        gpu_hours=gpu_hours_used(connection, study_id),
        recent=totals.recent_work(connection, study_id, recent_s=RECENT_S),
        patience=patience_used(connection, study_id, row.budget_patience),
    )


def best_of_study(storage: Storage, study: str) -> Callable[[], float | None]:
    """What asks the database for the study's best KL so far."""

    def ask() -> float | None:
        study_id = int(storage.optuna.get_study_id_from_name(study))
        with storage.transaction() as connection:
            leader = totals.leader(connection, study_id)
        return None if leader is None else leader.value

    return ask
