"""What may become of a trial, and of each attempt at it. ``docs/trial-states.md`` draws both.

A trial is one configuration that is evaluated: a unit of the budget. An attempt is one slot's run of it, and
one Optuna trial. If an attempt is requeued or lost, its trial waits for the next attempt.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Self


class _State(StrEnum):
    """A state with the names of the states that may follow it."""

    _next: tuple[str, ...]

    def __new__(cls, name: str, *following: str) -> Self:
        """Make a member whose value is ``name``."""
        member = str.__new__(cls, name)
        member._value_ = name
        member._next = following
        return member

    @property
    def is_final(self) -> bool:
        """Whether nothing follows."""
        return not self._next

    def may_become(self, state: Self) -> bool:
        """Whether ``state`` may follow this one."""
        return state.value in self._next


class TrialState(_State):
    """A trial begins as running, when a slot claims it, or as waiting, when its values were given."""

    WAITING = "waiting", "running", "pruned", "failed"
    """No slot is at it. If a person stops it, it has failed."""
    RUNNING = "running", "waiting", "paused", "complete", "pruned", "failed", "infeasible"
    """A slot has claimed it."""
    PAUSED = "paused", "running", "pruned", "failed"
    """It waits at a rung with its checkpoint, until it is promoted or given up."""
    COMPLETE = "complete"
    """It has a value."""
    PRUNED = "pruned"
    """Its pruner ended it, it was paused and given up, or a race dropped it before it began."""
    FAILED = "failed"
    """It raised an error, a person stopped it, or it took too many workers with it."""
    INFEASIBLE = "infeasible"
    """The device has no room for it. It is no unit of the budget, another draw takes its place."""

    @property
    def uses_budget(self) -> bool:
        """Whether it is a unit of the budget."""
        return self is not TrialState.INFEASIBLE


class AttemptState(_State):
    """An attempt begins as running, or as waiting, when a script enqueues it with Optuna."""

    WAITING = "waiting", "running"
    """A script left it with Optuna's ``enqueue_trial``, and no slot has claimed it: it has no row of ours."""
    RUNNING = "running", "complete", "pruned", "failed", "infeasible", "paused", "requeued", "lost"
    """A slot has a lease on it."""
    COMPLETE = "complete"
    """Its trial is complete."""
    PRUNED = "pruned"
    """Its trial is pruned."""
    FAILED = "failed"
    """Its trial has failed."""
    INFEASIBLE = "infeasible"
    """Its trial is infeasible."""
    PAUSED = "paused"
    """Its trial is paused at a rung, and may go on in another attempt."""
    REQUEUED = "requeued"
    """Its worker gave it back; the trial waits for the next attempt."""
    LOST = "lost"
    """Its worker is gone; the trial waits for the next attempt, unless it was the last that is allowed."""

    @property
    def trial_state_after(self) -> TrialState:
        """The state of the trial after this attempt, unless somebody stops the trial or sets it aside."""
        return TrialState.WAITING if self in REQUEUED_OR_LOST else TrialState(self.value)


REQUEUED_OR_LOST = (AttemptState.REQUEUED, AttemptState.LOST)
"""How an attempt ends whose trial goes on."""

ENDED = tuple(state for state in TrialState if state.is_final and state.uses_budget)
"""Final states of trials that used a unit of the budget."""


def label(trial: int, attempt: int) -> str:
    """How people read the numbers of a trial and of an attempt at it: ``5``, or ``5 (attempt 12)``."""
    return f"{trial}" if attempt == trial else f"{trial} (attempt {attempt})"
