"""Events of a study that people are told of, found in its totals."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from hms_tune.config.study_sections import Happening
from hms_tune.database.queries.outbox import Entry
from hms_tune.database.queries.workers import WorkerRow
from hms_tune.machine.processes import this_process
from hms_tune.machine.progress import duration
from hms_tune.studies.totals import StudyTotals
from hms_tune.tracking.notify.webhook import compose
from hms_tune.tracking.study_outlook import StudyOutlook

NEARLY = 0.9
"""Share of the budget from which on it is nearly spent."""

FORGOTTEN_S = 86_400.0
"""A worker that was lost longer ago is no news."""


def new_best(outlook: StudyOutlook, told: dict[str, Any] | None) -> Iterator[Entry]:
    """The best trial, if it is better than the one of the last message, ``told``."""
    if outlook.best is None or (told is not None and told["value"] <= outlook.best):
        return
    before = told["value"] if told else None
    text = f"{outlook.study}: new best KL {outlook.best:.4f} in trial {outlook.best_trial}"
    text += f" (was {before:.4f})" if told else ""
    facts = {"trial": outlook.best_trial, "value": outlook.best, "before": before}
    yield _entry("new_best", str(outlook.best_trial), outlook, text, **facts)


def study_finished(outlook: StudyOutlook, totals: StudyTotals) -> Iterator[Entry]:
    """That a limit of the budget is reached and nothing runs any more; again if the budget is raised."""
    if not totals.is_finished:
        return
    row = totals.row
    text = f"{outlook.study}: finished after {outlook.ended} trials"
    text += f" in {duration(totals.seconds)}"
    if outlook.best is not None:
        text += f"; best KL {outlook.best:.4f} in trial {outlook.best_trial}"
    limits = f"{row.budget_trials} trials, {row.budget_hours} h, {row.budget_gpu_hours} GPU-hours"
    facts = {"ended": outlook.ended, "trial": outlook.best_trial, "value": outlook.best}
    yield _entry("study_finished", limits, outlook, text, **facts)


def budget_nearly_spent(outlook: StudyOutlook, totals: StudyTotals) -> Iterator[Entry]:
    """Each limited part of the budget of which 90 % are used; again if it is raised."""
    row = totals.row
    limits = {
        "trials": (row.budget_trials, "trials"),
        "hours": (row.budget_hours, "h"),
        "gpu_hours": (row.budget_gpu_hours, "GPU-hours"),
    }
    for part, share in totals.shares_used.items():
        if NEARLY <= share < 1.0:
            limit, unit = limits[part]
            text = f"{outlook.study}: {share:.0%} of {limit:g} {unit} are used"
            text += f"; {duration(outlook.left_s)} left" if outlook.left_s is not None else ""
            facts = {"part": part, "limit": limit, "share": round(share, 4), "left_s": outlook.left_s}
            yield _entry("budget_nearly_spent", f"{part} {limit:g}", outlook, text, **facts)


def workers_lost(outlook: StudyOutlook, workers: Iterable[WorkerRow], *, silent_s: float) -> Iterator[Entry]:
    """Workers of this machine whose process is gone, and others that were silent for so long, s."""
    here = this_process()
    for worker in workers:
        if worker.silent_s < silent_s and not worker.is_gone(here):
            continue
        host = worker.process.host
        text = f"{outlook.study}: lost the worker on {host} ({worker.devices})"
        text += f", last seen {duration(worker.silent_s)} ago"
        where: dict[str, Any] = {"worker": worker.worker_id, "host": host, "devices": worker.devices}
        yield _entry("worker_lost", worker.worker_id, outlook, text, **where, silent_s=round(worker.silent_s))


def _entry(event: Happening, subject: str, outlook: StudyOutlook, text: str, **facts: Any) -> Entry:
    return Entry(event, subject, compose(event, outlook.study, text, **facts))
