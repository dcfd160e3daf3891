"""Trials that are paused at a rung: which goes on, and which are given up.

The rule is :class:`~hms_tune.search.promotion.rule.Promotion`, asked in the transaction of a claim, under
the study's row lock, with what stands in ``rungs``: a row for each rung that a trial has reached.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection

from sqlalchemy import Connection, select, update

from hms_tune.database.queue.end import ended
from hms_tune.database.tables import rungs, trials
from hms_tune.search.promotion.progress import ProgressState, TrialProgress
from hms_tune.search.promotion.rule import Promotion
from hms_tune.trial_state import TrialState

GIVEN_UP = "given up: others were better when it was paused"
"""The reason of a paused trial that was not promoted."""

_PROGRESS: dict[TrialState, ProgressState] = {
    TrialState.PAUSED: "paused",
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
}


def promoted(
    connection: Connection, study_id: int, promotion: Promotion, *, most: int | None, ending: bool
) -> int | None:
    """The trial that goes on now, claimed; None: none does. Those that never will are given up.

    Parameters
    ----------
    most : trials of the budget; None: no limit
    ending : whether to finish what is promising, since no new trial is to begin
    """
    known = _progress(connection, study_id)
    if most is not None:
        hopeless = set(promotion.hopeless(known, most))
        give_up_paused(connection, study_id, hopeless)
        known = [trial for trial in known if trial.number not in hopeless or trial.state != "paused"]
    chosen = promotion.next(known)
    if chosen is None and ending:
        chosen = next(iter(promotion.finish(known)), None)
    if chosen is not None:
        connection.execute(update(trials).where(trials.c.trial_id == chosen).values(state=TrialState.RUNNING))
    return chosen


def give_up_paused(connection: Connection, study_id: int, among: Collection[int] | None = None) -> None:
    """End paused trials as pruned: those with these ids, or all."""
    if among is not None and not among:
        return
    statement = update(trials).where(trials.c.study_id == study_id, trials.c.state == TrialState.PAUSED)
    if among is not None:
        statement = statement.where(trials.c.trial_id.in_(among))
    connection.execute(statement.values(**ended(TrialState.PRUNED, GIVEN_UP)))


def _progress(connection: Connection, study_id: int) -> list[TrialProgress]:
    """Every trial that has reached a rung, by its id in our table."""
    rows = connection.execute(
        select(trials.c.trial_id, trials.c.state, rungs.c.step, rungs.c.estimate)
        .join_from(trials, rungs, rungs.c.trial_id == trials.c.trial_id)
        .where(trials.c.study_id == study_id)
    )
    states: dict[int, TrialState] = {}
    reached: dict[int, dict[int, float]] = defaultdict(dict)
    for trial_id, state, step, estimate in rows:
        states[trial_id] = state
        reached[trial_id][step] = estimate
    return [
        TrialProgress(
            number=trial_id,
            params={},
            step=max(estimates),
            estimates=estimates,
            state=_PROGRESS.get(states[trial_id], "running"),
        )
        for trial_id, estimates in reached.items()
    ]
