"""An attempt that a slot may run, and how it ended."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import optuna

from hms_tune.database.queue.lease import Lease
from hms_tune.search.optuna_private import trial_id_of
from hms_tune.trial_state import AttemptState


@dataclass(frozen=True, slots=True)
class Attempt:
    """An Optuna trial that this process may run."""

    lease: Lease
    optuna_trial: optuna.Trial
    number: int
    trial: int
    """Number of the trial: that of its first attempt."""
    rung: int = 0
    """The step of the rung at which the trial paused last; 0: none."""

    @property
    def optuna_trial_id(self) -> int:
        """Optuna's id of the attempt."""
        return trial_id_of(self.optuna_trial)


@dataclass(frozen=True, slots=True)
class Result:
    """How an attempt ended.

    ``reason`` is one line; ``attributes`` become Optuna user attributes. ``excess`` is by what share it
    needed more memory than there is; 0 where that is not why it ended. ``rung`` is the step that
    a paused or complete attempt of a study with rungs has reached, and its estimate there.
    """

    state: AttemptState
    value: float | None = None
    reason: str | None = None
    attributes: Mapping[str, Any] = field(default_factory=dict)
    excess: float = 0.0
    rung: tuple[int, float] | None = None

    def __post_init__(self) -> None:
        if not AttemptState.RUNNING.may_become(self.state):
            raise ValueError(f"an attempt does not end as {self.state}")
        if (self.state == AttemptState.COMPLETE) != (self.value is not None):
            raise ValueError("a complete trial has a value, and no other has one")
        if self.state == AttemptState.PAUSED and self.rung is None:
            raise ValueError("a paused attempt is at a rung")
        if self.value is not None and not math.isfinite(self.value):
            raise ValueError(f"a complete trial has a finite value, not {self.value}")
