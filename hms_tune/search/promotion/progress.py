"""How far a trial is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

ProgressState = Literal["running", "paused", "complete", "pruned"]


@dataclass(frozen=True, slots=True)
class TrialProgress:
    """How far a trial is, over all its attempts.

    Attributes
    ----------
    number : names the trial; the smaller one goes first where two are equal
    params : the trial's parameters
    step : the last step trained; at the end of a fold the fold's last step, also where it stopped early
    estimates : the cross-validation estimate by step, smaller is better; infinite where training diverged
    state : a paused trial holds no slot
    """

    number: int
    params: Mapping[str, Any]
    step: int
    estimates: Mapping[int, float]
    state: ProgressState

    def value(self, rung: int) -> float:
        """What the trial was worth at a rung that it reached."""
        if rung in self.estimates:
            return self.estimates[rung]
        earlier = (step for step in self.estimates if step <= rung)
        return self.estimates[max(earlier, default=min(self.estimates))]
