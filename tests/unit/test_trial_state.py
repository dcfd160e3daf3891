"""The states of trials and attempts, and the page that draws them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from hms_tune.trial_state import ENDED, AttemptState, TrialState

PAGE = Path(__file__).parents[2] / "docs" / "trial-states.md"


def drawn(heading: str) -> set[tuple[str, str]]:
    """The arrows of the diagram below a heading."""
    section = PAGE.read_text().split(f"## {heading}\n")[1].split("\n## ")[0]
    return set(re.findall(r"^    (\S+) --> ([^\s:]+)", section, flags=re.MULTILINE))


@pytest.mark.parametrize(("heading", "states"), [("A trial", TrialState), ("An attempt", AttemptState)])
def test_the_page_draws_exactly_the_steps_that_the_code_allows(
    heading: str, states: type[TrialState] | type[AttemptState]
) -> None:
    allowed = {(a.value, b.value) for a in states for b in states if a.may_become(b)}
    allowed |= {(state.value, "[*]") for state in states if state.is_final}
    allowed |= {("[*]", "running"), ("[*]", "waiting")}
    assert drawn(heading) == allowed


@pytest.mark.parametrize("states", [TrialState, AttemptState])
def test_every_state_is_reached_and_every_step_leads_to_a_state(
    states: type[TrialState] | type[AttemptState],
) -> None:
    reached = {name for state in states for name in state._next}
    assert reached | {"running", "waiting"} == {state.value for state in states}


def test_an_attempt_leaves_its_trial_in_a_state_that_may_follow() -> None:
    for attempt in AttemptState:
        if attempt.is_final:
            assert TrialState.RUNNING.may_become(attempt.trial_state_after), attempt
    assert (
        AttemptState.REQUEUED.trial_state_after is AttemptState.LOST.trial_state_after is TrialState.WAITING
    )


def test_the_budget_counts_what_ended_but_was_not_infeasible() -> None:
    assert ENDED == (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAILED)
    assert [state for state in TrialState if not state.uses_budget] == [TrialState.INFEASIBLE]
