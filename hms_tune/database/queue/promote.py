"""Trials that are paused at a rung: which goes on, and which are given up.

The rule is :class:`~hms_tune.search.promotion.rule.Promotion`, asked in the transaction of a claim, under
the study's row lock. It needs no more than counts and the best paused trial of each rung, which indexes give:
``rungs`` has a row for each rung that a trial has reached, ``trials`` the rung that it is paused at.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from sqlalchemy import Connection, select, text, update

from hms_tune.database.queue.end import columns_of_ended
from hms_tune.database.tables import SCHEMA, rungs, trials
from hms_tune.search.promotion.progress import ProgressState, TrialProgress
from hms_tune.search.promotion.rule import Promotion, RungStanding
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
    if most is not None:
        _give_up_hopeless(connection, study_id, promotion.places(most))
    standings = _standings(connection, study_id, promotion.pauses)
    interrupted = _interrupted(connection, study_id, promotion.rungs)
    chosen = promotion.best(standings) if interrupted is None else interrupted
    if chosen is None and ending and any(each.paused is not None for each in standings):
        chosen = next(iter(promotion.finish(_progress(connection, study_id))), None)
    if chosen is not None:
        connection.execute(update(trials).where(trials.c.trial_id == chosen).values(state=TrialState.RUNNING))
    return chosen


def give_up_paused(connection: Connection, study_id: int) -> None:
    """End all paused trials as pruned."""
    paused = update(trials).where(trials.c.study_id == study_id, trials.c.state == TrialState.PAUSED)
    connection.execute(paused.values(**columns_of_ended(TrialState.PRUNED, GIVEN_UP)))


_PLACE = "(estimate, trial_id)"
"""Trials of a rung in their order; a difference of none is decided by who began first."""

_STANDINGS = text(f"""
    SELECT rung, reached, paused.trial_id AS paused, coalesce(better, 0) AS better
    FROM unnest(CAST(:rungs AS integer[])) AS pauses (rung)
    CROSS JOIN LATERAL (
        SELECT count(*) AS reached FROM {SCHEMA}.rungs WHERE study_id = :study AND step = pauses.rung
    ) AS all_at_rung
    LEFT JOIN LATERAL (
        SELECT estimate, trial_id FROM {SCHEMA}.trials
        WHERE study_id = :study AND state = 'paused' AND trials.rung = pauses.rung
        ORDER BY estimate, trial_id LIMIT 1
    ) AS paused ON true
    LEFT JOIN LATERAL (
        SELECT count(*) AS better FROM {SCHEMA}.rungs
        WHERE study_id = :study AND step = pauses.rung AND {_PLACE} < (paused.estimate, paused.trial_id)
    ) AS ahead ON true
""")


def _standings(connection: Connection, study_id: int, pauses: Sequence[int]) -> list[RungStanding]:
    """How things stand at each rung; none of it reads the study's trials."""
    rows = connection.execute(_STANDINGS, {"study": study_id, "rungs": list(pauses)})
    return [RungStanding(row.rung, row.reached, row.paused, row.better) for row in rows]


_HOPELESS = text(f"""
    SELECT paused.trial_id
    FROM unnest(CAST(:rungs AS integer[]), CAST(:places AS integer[])) AS pauses (rung, places)
    CROSS JOIN LATERAL (
        SELECT estimate, trial_id FROM {SCHEMA}.rungs WHERE study_id = :study AND step = pauses.rung
        ORDER BY estimate, trial_id OFFSET pauses.places - 1 LIMIT 1
    ) AS last
    CROSS JOIN LATERAL (
        SELECT trial_id FROM {SCHEMA}.trials
        WHERE study_id = :study AND state = 'paused' AND trials.rung = pauses.rung
          AND {_PLACE} > (last.estimate, last.trial_id)
    ) AS paused
""")


def _give_up_hopeless(connection: Connection, study_id: int, places: Mapping[int, int]) -> None:
    """End paused trials that have too many better ones before them, by how many can go on from each rung."""
    given = {"study": study_id, "rungs": list(places), "places": list(places.values())}
    hopeless = connection.execute(_HOPELESS, given).scalars().all()
    if hopeless:
        connection.execute(
            update(trials)
            .where(trials.c.trial_id.in_(hopeless), trials.c.state == TrialState.PAUSED)
            .values(**columns_of_ended(TrialState.PRUNED, GIVEN_UP))
        )


def _interrupted(connection: Connection, study_id: int, rungs_: Sequence[int]) -> int | None:
    """The most advanced trial that is paused at a step that is no rung any more: the file's were changed."""
    return connection.execute(
        select(trials.c.trial_id)
        .where(
            trials.c.study_id == study_id,
            trials.c.state == TrialState.PAUSED,
            trials.c.rung.not_in(rungs_),
        )
        .order_by(trials.c.rung.desc(), trials.c.trial_id)
        .limit(1)
    ).scalar_one_or_none()


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
