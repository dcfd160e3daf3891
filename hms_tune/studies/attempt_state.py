"""What an Optuna trial says of an attempt: its state in our words, and the attributes of its result."""

from __future__ import annotations

from collections.abc import Mapping

from optuna.trial import FrozenTrial, TrialState

from hms_tune.database.queue.end import LINEAGE_ATTRIBUTE
from hms_tune.search.memory_constraint import is_declined

STATES = ("complete", "pruned", "failed", "declined", "running", "waiting")

KL_ALL_ROWS = "kl_all_rows"
KL_HIGH_VOTE = "kl_high_vote"
SECONDS = "seconds"

_STATE_OF = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
    TrialState.WAITING: "waiting",
}


def state_of(trial: FrozenTrial) -> str:
    """One of ``STATES``. An attempt that went on elsewhere has failed, as far as Optuna knows."""
    return "declined" if is_declined(trial) else _STATE_OF[trial.state]


def first_number(trial: FrozenTrial) -> int:
    """The number of the first attempt at the same trial."""
    return int(trial.user_attrs.get(LINEAGE_ATTRIBUTE, trial.number))


def named_states(counted: Mapping[TrialState, int], *, declined: int) -> dict[str, int]:
    """Counts by Optuna's states as counts by ours; every state is named.

    Parameters
    ----------
    declined : how many of the pruned ones were declined: no device had room for them
    """
    names = {_STATE_OF[state]: number for state, number in counted.items()}
    names |= {"pruned": names.get("pruned", 0) - declined, "declined": declined}
    return {name: names.get(name, 0) for name in STATES}
