"""An attempt's trial in Optuna's tables: the attributes that it carries, and its state in our words."""

from __future__ import annotations

from optuna.trial import FrozenTrial
from optuna.trial import TrialState as OptunaState

from hms_tune.search.memory_constraint import is_infeasible
from hms_tune.trial_state import REQUEUED_OR_LOST, AttemptState

LEASE_ATTRIBUTE = "lease"
"""The attempt's lease, from the moment the Optuna trial exists."""

TRIAL_ATTRIBUTE = "trial"
"""Number of the trial: that of its first attempt."""

STATE_ATTRIBUTE = "attempt_state"
"""How the attempt ended. Optuna has one state for what failed, was requeued and was lost."""

REASON_ATTRIBUTE = "reason"

RUNG_ATTRIBUTE = "rung"
"""Step of the rung that the attempt paused at, and its estimate there."""

CONFIG_HASH_ATTRIBUTE = "config_hash"
"""Present once every parameter of the attempt is drawn."""

KL_ALL_ROWS_ATTRIBUTE = "kl_all_rows"
KL_HIGH_VOTE_ATTRIBUTE = "kl_high_vote"
SECONDS_ATTRIBUTE = "seconds"
GAIN_ATTRIBUTE = "expected_gain"
"""What one more trial was expected to gain over the best complete one when the values were drawn."""
NOISE_ATTRIBUTE = "standard_error"
"""Standard error of a complete trial's score, by bootstrap over patients."""

_OPTUNAS = {
    AttemptState.WAITING: OptunaState.WAITING,
    AttemptState.RUNNING: OptunaState.RUNNING,
    AttemptState.COMPLETE: OptunaState.COMPLETE,
    AttemptState.PRUNED: OptunaState.PRUNED,
    AttemptState.FAILED: OptunaState.FAIL,
}
_LESS_EXACT = (*REQUEUED_OR_LOST, AttemptState.PAUSED)
"""States that Optuna has no word for."""

_OURS = {theirs: ours for ours, theirs in _OPTUNAS.items()}


def optuna_state(state: AttemptState) -> OptunaState:
    """An attempt's state as Optuna has it.

    Samplers do not see failed trials; of pruned ones that violate a constraint they learn. A paused attempt
    is a pruned one: it is over, and its curve is there to learn from.
    """
    if state in REQUEUED_OR_LOST:
        return OptunaState.FAIL
    if state in (AttemptState.INFEASIBLE, AttemptState.PAUSED):
        return OptunaState.PRUNED
    return _OPTUNAS[state]


def state_by_both(theirs: OptunaState, ours: AttemptState | None) -> AttemptState:
    """An attempt's state where Optuna's tables have one and ours another, or no row: the more exact one."""
    return ours if ours is not None and optuna_state(ours) == theirs else _OURS[theirs]


def attempt_state(trial: FrozenTrial) -> AttemptState:
    """The state of the attempt that an Optuna trial is."""
    if is_infeasible(trial):
        return AttemptState.INFEASIBLE
    told = trial.user_attrs.get(STATE_ATTRIBUTE)
    return state_by_both(trial.state, AttemptState(told) if told in _LESS_EXACT else None)


def trial_number(trial: FrozenTrial) -> int:
    """The number of the trial that an Optuna trial is an attempt at."""
    return int(trial.user_attrs.get(TRIAL_ATTRIBUTE, trial.number))
