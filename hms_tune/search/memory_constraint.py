"""Draws that the device has no room for: they end at once, as infeasible, and the sampler learns of it.

An infeasible draw ends as a pruned Optuna trial that violates a constraint. TPE ranks such trials after all
others, by how much they violate it; of failed trials it hears nothing. The pruners do not count them, for
they reported nothing, and the samplers' start-up does not either.
"""

from __future__ import annotations

import optuna
from optuna.trial import FrozenTrial, TrialState

CONSTRAINT = "memory"
"""Optuna's name for it: by what share a draw needs more memory than there is."""

CAUSE_ATTRIBUTE = "cause"
"""User attribute of a trial that failed for a reason that lies outside the code."""

HYPERPARAMETERS = "hyperparameters"
"""The cause of a failure that other values would not have."""

MOST_INFEASIBLE = 20
"""After this many infeasible draws in a row the space and the device do not go together."""


def mark_infeasible(trial: optuna.Trial, excess: float) -> None:
    """Note by how much a draw is too large, before it ends. Safe to repeat.

    Parameters
    ----------
    excess : bytes needed over bytes there, less 1; above 0
    """
    if CONSTRAINT not in trial.constraints:
        trial.set_constraint(CONSTRAINT, excess)


def is_infeasible(trial: FrozenTrial) -> bool:
    """Whether a trial was infeasible."""
    return trial.state == TrialState.PRUNED and trial.constraints.get(CONSTRAINT, 0.0) > 0.0
