"""What a person asks about studies.

Counts of trials are read from Optuna's own tables, so that they agree with the dashboard and with any script
that uses Optuna.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from optuna.trial import FrozenTrial
from sqlalchemy import Connection, func, select

from hms_tune.config.study_file import StudyFile
from hms_tune.database.connect import Storage
from hms_tune.database.queue.claim import gpu_hours_used
from hms_tune.database.queue.end import STOPPED_BY_A_PERSON
from hms_tune.database.tables import leases, lineages, now, studies, workers
from hms_tune.errors import UnknownStudyError, UsageError
from hms_tune.search.reports import fold_of_step
from hms_tune.search.study import STUDY_FILE, foreign_study
from hms_tune.studies import totals as figures
from hms_tune.studies.status_types import (
    FOREIGN,
    RunningTrial,
    StudyStatus,
    StudySummary,
    TrialSummary,
    WorkerStatus,
    best_trial,
    named_states,
    running_trial,
    trial_summary,
    worker_status,
)


def find_study(storage: Storage, name: str) -> int:
    """Optuna's id of a study that hms-tune made.

    Raises
    ------
    UnknownStudyError
        If the storage has no study of that name.
    StorageError
        If another program made it.
    """
    study_id = _find(storage, name)
    with storage.engine.connect() as connection:
        if not figures.is_ours(connection, study_id):
            raise foreign_study(name)
    return study_id


def _find(storage: Storage, name: str) -> int:
    try:
        return int(storage.optuna.get_study_id_from_name(name))
    except KeyError:
        raise UnknownStudyError(
            f'no study "{name}" in the storage', mend="hms-tune study list names those there are"
        ) from None


def list_studies(storage: Storage) -> list[StudySummary]:
    """Every study in the storage, by name, those of other programs too."""
    with storage.engine.connect() as connection:
        found = connection.execute(
            select(figures.STUDIES.c.study_id, figures.STUDIES.c.study_name).order_by("study_name")
        ).all()
        return [_summary(connection, row.study_id, row.study_name) for row in found]


def _summary(connection: Connection, study_id: int, name: str) -> StudySummary:
    row = connection.execute(select(studies).where(studies.c.study_id == study_id)).one_or_none()
    kinds = figures.trials_by_kind(connection, study_id)
    best = figures.best_value(connection, study_id)
    not_joined = "not started" if figures.is_ours(connection, study_id) else FOREIGN
    return StudySummary(
        study=name,
        state=row.state if row else not_joined,
        trials=named_states(figures.attempts_by_state(connection, study_id), kinds.get("declined", 0)),
        best_value=None if best is None else best[1],
        budget_trials=row.budget_trials if row else None,
    )


def status(storage: Storage, name: str) -> StudyStatus:
    """How a study stands. One that another program made has its trials, and its best in its own direction.

    Raises
    ------
    UnknownStudyError
        If the storage has no study of that name.
    """
    study_id = _find(storage, name)
    with storage.engine.connect() as connection:
        not_joined = "running" if figures.is_ours(connection, study_id) else FOREIGN
        attempts = figures.attempts_by_state(connection, study_id)
        budget = figures.budget_of(connection, study_id)
        kinds = figures.trials_by_kind(connection, study_id)
        running = _running(connection, study_id)
        at_work = _workers(connection, study_id, running)
        ended = sum(kinds.get(outcome, 0) for outcome in figures.ENDED)
        age_s = None if budget is None else budget.age_s
        speed = figures.speed_of(connection, study_id, age_s=age_s, ended=ended)
        gpu_hours = gpu_hours_used(connection, study_id)
        best_ids = figures.best_ids(connection, study_id)
        failed = figures.failures(connection, study_id)
        pruned = figures.last_steps_of_pruned(connection, study_id) if kinds.get("pruned") else {}
        moved = figures.attempts_that_moved(connection, study_id)
        enqueued = _enqueued(connection, study_id)
    leaders = tuple(best_trial(storage.optuna.get_trial(trial_id)) for trial_id in best_ids)
    left = None
    if budget is not None:
        left = figures.seconds_left(budget, speed, ended=ended, gpu_hours=gpu_hours)
    return StudyStatus(
        study=name,
        state=not_joined if budget is None else budget.state,
        trials=named_states(attempts, kinds.get("declined", 0)),
        units={kind: kinds.get(kind, 0) for kind in (*figures.ENDED, "claimed", "waiting")},
        budget_trials=None if budget is None else budget.trials,
        budget_hours=None if budget is None else budget.hours,
        budget_gpu_hours=None if budget is None else budget.gpu_hours,
        hours=None if age_s is None else age_s / 3600.0,
        gpu_hours=gpu_hours,
        best=leaders[0] if leaders else None,
        leaders=leaders,
        failed_because=failed,
        pruned_in_fold=_by_fold(storage, study_id, pruned),
        moved=moved,
        running=running,
        enqueued=enqueued,
        workers=at_work,
        started_at=None if budget is None else budget.started_at,
        per_hour=speed.trials_per_hour,
        images_per_second=speed.images_per_second,
        left_s=left,
        ends_at=None if budget is None or left is None else budget.asked_at + timedelta(seconds=left),
    )


def show_trials(storage: Storage, name: str, *, number: int | None = None) -> list[TrialSummary]:
    """All trials of a study, or the one with that number.

    Raises
    ------
    UnknownStudyError
        If there is no such study.
    UsageError
        If it has no such trial.
    """
    study_id = find_study(storage, name)
    trials: list[FrozenTrial] = storage.optuna.get_all_trials(study_id, deepcopy=False)
    if number is not None:
        trials = [trial for trial in trials if trial.number == number]
        if not trials:
            raise UsageError(f"no trial {number}", where=f"study {name}")
    # A trial that is stopped while no slot is at it ends after its last attempt has.
    stopped = select(lineages.c.last_trial_id).where(
        lineages.c.study_id == study_id, lineages.c.reason == STOPPED_BY_A_PERSON
    )
    with storage.engine.connect() as connection:
        last = frozenset(connection.execute(stopped).scalars())
    return [
        trial_summary(trial, reason=STOPPED_BY_A_PERSON if trial._trial_id in last else None)
        for trial in trials
    ]


def _by_fold(storage: Storage, study_id: int, steps: dict[int, int]) -> dict[int, int]:
    """Counts of trials by the fold, from 1, in which they reported their last step."""
    stored = storage.optuna.get_study_user_attrs(study_id).get(STUDY_FILE) if steps else None
    if not isinstance(stored, str):
        return {}
    study_file = StudyFile.from_json(stored)
    by_fold: Counter[int] = Counter()
    for step, number in steps.items():
        by_fold[fold_of_step(step, study_file) + 1] += number
    return dict(sorted(by_fold.items()))


def _enqueued(connection: Connection, study_id: int) -> tuple[dict[str, Any], ...]:
    rows = connection.execute(
        select(lineages.c.given)
        .where(
            lineages.c.study_id == study_id,
            lineages.c.state == "waiting",
            lineages.c.given.is_not(None),
            lineages.c.last_trial_id.is_(None),
        )
        .order_by(lineages.c.lineage_id)
    )
    return tuple(dict(given) for given in rows.scalars())


def _running(connection: Connection, study_id: int) -> tuple[RunningTrial, ...]:
    rows = connection.execute(
        select(
            leases,
            lineages.c.first_number,
            lineages.c.wanted,
            func.extract("epoch", leases.c.expires_at - now()).label("left_s"),
        )
        .join_from(leases, lineages, leases.c.lineage_id == lineages.c.lineage_id)
        .where(leases.c.study_id == study_id, leases.c.ended_at.is_(None))
        .order_by(leases.c.lease_id)
    ).all()
    reported = figures.last_reports(connection, [row.trial_id for row in rows if row.trial_id is not None])
    return tuple(running_trial(row, reported.get(row.trial_id)) for row in rows)


def _workers(
    connection: Connection, study_id: int, running: Sequence[RunningTrial]
) -> tuple[WorkerStatus, ...]:
    rows = connection.execute(
        select(workers, func.extract("epoch", now() - workers.c.last_seen).label("ago_s"))
        .where(workers.c.study_id == study_id, workers.c.stopped_at.is_(None))
        .order_by(workers.c.started_at)
    )
    return tuple(worker_status(row, running) for row in rows)
