"""Whose turn it is, in searches that go through a list: grid and quasi-random.

Optuna's own samplers find the next entry by reading what other workers have taken and then writing, so that
two workers can take the same one. Here a trial has its turn from its creation on: the fleet gives each that
is to be drawn the first free one, under the study's lock (``database/queue/start.py``). In a study without a
fleet the turn is the count of earlier drawn trials, which is the same whenever and wherever it is taken.

What was enqueued, by a person or as the successor of a lost trial, has its values and uses up no turn. Where
a trial was lost before its values were drawn, its successor stands in for it and has its turn.
"""

from __future__ import annotations

import optuna
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

from hms_tune.search.optuna_private import all_trials_of

FIXED_PARAMS = "fixed_params"
"""Optuna's mark of an enqueued trial, for which it has no name."""

STANDS_IN_FOR = "hms_tune:stands_in_for"
"""System attribute of an attempt that takes over a trial whose parameters were not drawn: its number."""

CONTINUES_ATTRIBUTE = "continues"
"""User attribute of an attempt that goes on with a lost or requeued one: its number."""

TURN = "hms_tune:turn"
"""System attribute of a trial that is drawn from a list: its turn, counted from 0."""


def goes_through_a_list(sampler: BaseSampler) -> bool:
    """Whether trials need turns."""
    return bool(getattr(sampler, "goes_through_a_list", False))


def is_enqueued(trial: FrozenTrial) -> bool:
    """Whether the trial's parameters were given to it."""
    return FIXED_PARAMS in trial.system_attrs


def was_given(trial: FrozenTrial) -> bool:
    """Whether a person or a script gave the trial its values, and a worker has taken it."""
    is_successor = CONTINUES_ATTRIBUTE in trial.user_attrs
    return is_enqueued(trial) and not is_successor and trial.state != TrialState.WAITING


def turn_of(study: optuna.Study, trial: FrozenTrial) -> int:
    """The turn that the trial was given, else how many drawn trials came before it."""
    given = trial.system_attrs.get(TURN)
    if given is not None:
        return int(given)
    # Not study.get_trials: under Hyperband a sampler is handed one bracket's trials only.
    trials = all_trials_of(study)
    number = trial.system_attrs.get(STANDS_IN_FOR, trial.number)
    return sum(1 for other in trials if other.number < number and _takes_a_turn(other))


def _takes_a_turn(trial: FrozenTrial) -> bool:
    return not is_enqueued(trial) and STANDS_IN_FOR not in trial.system_attrs
