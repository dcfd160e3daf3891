"""How an attempt may end."""

from __future__ import annotations

import pytest

from hms_tune.database.queue.attempt import Result
from hms_tune.trial_state import AttemptState


def test_a_complete_result_has_a_finite_value_and_no_other_has_one() -> None:
    assert Result(AttemptState.COMPLETE, value=0.5).value == 0.5
    complete, pruned = AttemptState.COMPLETE, AttemptState.PRUNED
    for state, value in ((complete, None), (complete, float("inf")), (pruned, 0.5)):
        with pytest.raises(ValueError, match="a complete trial has"):
            Result(state, value=value)
    with pytest.raises(ValueError, match="does not end as running"):
        Result(AttemptState.RUNNING)
