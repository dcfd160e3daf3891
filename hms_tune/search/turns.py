"""Whose turn it is: the position of a trial among those that were drawn, not enqueued.

Grid and quasi-random searches go through a list. Optuna's own samplers find the next entry by reading what
other workers have taken and then writing, so that two workers can take the same one. A turn needs no
writing: the database numbers trials in the order of their creation and an enqueued trial is one from its
creation on, so the count of earlier drawn trials is the same whenever and wherever it is taken.

The attempts that take over a lost trial are enqueued with its parameters and use up no turn. Where it was
lost before its parameters were drawn, the attempt stands in for it and takes the turn of the lost one.
"""

from __future__ import annotations

import optuna
from optuna.trial import FrozenTrial

FIXED_PARAMS = "fixed_params"
"""Optuna's mark of an enqueued trial."""

STANDS_IN_FOR = "hms_tune:stands_in_for"
"""System attribute of an attempt that takes over a trial whose parameters were not drawn: its number."""


def is_enqueued(trial: FrozenTrial) -> bool:
    """Whether the trial's parameters were given to it."""
    return FIXED_PARAMS in trial.system_attrs


def turn_of(study: optuna.Study, trial: FrozenTrial) -> int:
    """How many drawn trials came before this one."""
    # Not study.get_trials: under Hyperband a sampler is handed one bracket's trials only.
    trials = study._storage.get_all_trials(study._study_id, deepcopy=False)
    number = trial.system_attrs.get(STANDS_IN_FOR, trial.number)
    return sum(1 for other in trials if other.number < number and _takes_a_turn(other))


def _takes_a_turn(trial: FrozenTrial) -> bool:
    return not is_enqueued(trial) and STANDS_IN_FOR not in trial.system_attrs
