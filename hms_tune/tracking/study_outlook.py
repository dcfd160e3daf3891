"""How the whole study stands, as far as the machine of one worker is told."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hms_tune.studies.standing import Standing

if TYPE_CHECKING:
    from hms_tune.database.queries.totals import Leader
    from hms_tune.studies.totals import StudyTotals


@dataclass(frozen=True, slots=True)
class StudyOutlook:
    """A study at one moment.

    ``ended`` and ``budget`` count trials; ``per_hour`` is the fleet's speed and ``left_s`` when the budget is
    spent, s from now; None where nobody knows yet. ``standing`` is what partial estimates are held against.
    """

    study: str
    ended: int
    budget: int | None
    best: float | None
    best_trial: int | None
    per_hour: float | None
    left_s: float | None
    standing: Standing = field(default_factory=Standing)

    @classmethod
    def of(
        cls, study: str, totals: StudyTotals, leader: Leader | None, ratios: tuple[float, ...] = ()
    ) -> StudyOutlook:
        """From a study's totals and its best trial."""
        return cls(
            study=study,
            ended=totals.ended,
            budget=totals.row.budget_trials,
            best=None if leader is None else leader.value,
            best_trial=None if leader is None else leader.trial,
            per_hour=totals.trials_per_hour,
            left_s=totals.seconds_left,
            standing=Standing(None if leader is None else leader.value, ratios),
        )
