"""How the whole study stands, as far as the machine of one worker is told."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StudyOutlook:
    """A study at one moment.

    ``ended`` and ``budget`` count trials; ``per_hour`` is the fleet's speed and ``left_s`` when the budget is
    spent, s from now; None where nobody knows yet.
    """

    study: str
    ended: int
    budget: int | None
    best: float | None
    best_trial: int | None
    per_hour: float | None
    left_s: float | None
