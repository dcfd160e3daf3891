"""What in a study is worth telling people, found by looking at it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sqlalchemy import Connection, select

from hms_tune.config.study_sections import Happening
from hms_tune.database.notices import Notice, last_message
from hms_tune.database.queue.claim import trials_claimed
from hms_tune.database.tables import leases, lineages
from hms_tune.machine.processes import ProcessIdentity, this_process
from hms_tune.studies import totals as figures
from hms_tune.studies.totals import Budget
from hms_tune.tracking.console_table import duration
from hms_tune.tracking.notify.webhook import compose
from hms_tune.tracking.study_outlook import StudyOutlook

NEARLY = 0.9
"""Share of the budget from which on it is nearly spent."""

FORGOTTEN_S = 86_400.0
"""A worker that was lost longer ago is no news."""

_UNITS = {"trials": "trials", "hours": "h", "gpu_hours": "GPU-hours"}


def new_best(connection: Connection, study_id: int, outlook: StudyOutlook) -> Iterator[Notice]:
    """The best trial, if it is better than the last that was told."""
    if outlook.best is None:
        return
    told = last_message(connection, study_id, "new_best")
    if told is not None and told["value"] <= outlook.best:
        return
    text = f"{outlook.study}: new best KL {outlook.best:.4f} in trial {outlook.best_trial}"
    text += f" (was {told['value']:.4f})" if told else ""
    facts = {"trial": outlook.best_trial, "value": outlook.best, "before": told["value"] if told else None}
    yield _notice("new_best", str(outlook.best_trial), outlook, text, **facts)


def study_finished(
    connection: Connection, study_id: int, outlook: StudyOutlook, budget: Budget
) -> Iterator[Notice]:
    """That a limit of the budget is reached and nothing runs any more; again if the budget is raised."""
    used = figures.shares_used(connection, study_id, budget)
    used.pop("trials", None)
    over = any(share >= 1.0 for share in used.values())
    if budget.trials is not None and trials_claimed(connection, study_id) >= budget.trials:
        over = over or not _any_unended(connection, study_id)
    live = (
        select(leases.c.lease_id).where(leases.c.study_id == study_id, leases.c.ended_at.is_(None)).limit(1)
    )
    if not over or connection.execute(live).one_or_none() is not None:
        return
    text = f"{outlook.study}: finished after {outlook.ended} trials"
    text += f" in {duration(budget.age_s)}" if budget.age_s is not None else ""
    if outlook.best is not None:
        text += f"; best KL {outlook.best:.4f} in trial {outlook.best_trial}"
    limits = f"{budget.trials} trials, {budget.hours} h, {budget.gpu_hours} GPU-hours"
    facts = {"ended": outlook.ended, "trial": outlook.best_trial, "value": outlook.best}
    yield _notice("study_finished", limits, outlook, text, **facts)


def budget_nearly_spent(
    connection: Connection, study_id: int, outlook: StudyOutlook, budget: Budget
) -> Iterator[Notice]:
    """Each limited part of the budget of which 90 % are used; again if it is raised."""
    for part, share in figures.shares_used(connection, study_id, budget).items():
        if NEARLY <= share < 1.0:
            limit = getattr(budget, part)
            text = f"{outlook.study}: {share:.0%} of {limit:g} {_UNITS[part]} are used"
            text += f"; {duration(outlook.left_s)} left" if outlook.left_s is not None else ""
            facts = {"part": part, "limit": limit, "share": round(share, 4), "left_s": outlook.left_s}
            yield _notice("budget_nearly_spent", f"{part} {limit:g}", outlook, text, **facts)


def worker_lost(
    connection: Connection, study_id: int, outlook: StudyOutlook, *, silent_s: float
) -> Iterator[Notice]:
    """Workers of this machine whose process is gone, and others that were silent for so long, s."""
    here = this_process()
    for row in figures.silent_workers(connection, study_id, silent_s=0.0, forgotten_s=FORGOTTEN_S):
        process = ProcessIdentity(row.host, row.pid, row.process_started, row.machine)
        ago = float(row.ago_s)
        if ago < silent_s and not process.is_known_dead(here):
            continue
        text = (
            f"{outlook.study}: lost the worker on {row.host} ({row.devices}), last seen {duration(ago)} ago"
        )
        facts = {"worker": row.worker_id, "host": row.host, "devices": row.devices, "silent_s": round(ago)}
        yield _notice("worker_lost", row.worker_id, outlook, text, **facts)


def _any_unended(connection: Connection, study_id: int) -> bool:
    unended = select(lineages.c.lineage_id).where(
        lineages.c.study_id == study_id, lineages.c.state != "ended"
    )
    return connection.execute(unended.limit(1)).one_or_none() is not None


def _notice(kind: Happening, subject: str, outlook: StudyOutlook, text: str, **facts: Any) -> Notice:
    return Notice(kind, subject, compose(kind, outlook.study, text, **facts))
