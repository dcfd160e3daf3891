"""What a person asks about studies.

Counts of trials are read from Optuna's own tables, so that they agree with the dashboard and with any script
that uses Optuna.
"""

from __future__ import annotations

import optuna
from optuna.trial import FrozenTrial
from sqlalchemy import Connection, func, select

from hms_tune.errors import UnknownStudyError, UsageError
from hms_tune.service.attempts import STOPPED_BY_A_PERSON
from hms_tune.service.budget import gpu_hours_used
from hms_tune.service.storage import Storage
from hms_tune.service.summaries import (
    RunningTrial,
    StudyStatus,
    StudySummary,
    TrialSummary,
    WorkerStatus,
    best_of,
    count_states,
    running_trial,
    trial_summary,
    worker_status,
)
from hms_tune.service.tables import leases, lineages, now, studies, workers


def find_study(storage: Storage, name: str) -> int:
    """Optuna's id of a study.

    Raises
    ------
    UnknownStudyError
        If the storage has no study of that name.
    """
    try:
        return int(storage.optuna.get_study_id_from_name(name))
    except KeyError:
        raise UnknownStudyError(
            f'no study "{name}" in the storage', mend="hms-tune study list names those there are"
        ) from None


def list_studies(storage: Storage) -> list[StudySummary]:
    """Every study in the storage, by name."""
    with storage.engine.connect() as connection:
        rows = {row.study_id: row for row in connection.execute(select(studies))}
    summaries = []
    for frozen in optuna.get_all_study_summaries(storage.optuna, include_best_trial=False):
        trials = storage.optuna.get_all_trials(frozen._study_id, deepcopy=False)
        best = best_of(trials)
        row = rows.get(frozen._study_id)
        summaries.append(
            StudySummary(
                study=frozen.study_name,
                state=row.state if row else "not started",
                trials=count_states(trials),
                best_value=best.value if best else None,
                budget_trials=row.budget_trials if row else None,
            )
        )
    return sorted(summaries, key=lambda summary: summary.study)


def status(storage: Storage, name: str) -> StudyStatus:
    """How a study stands.

    Raises
    ------
    UnknownStudyError
        If the storage has no study of that name.
    """
    study_id = find_study(storage, name)
    trials = storage.optuna.get_all_trials(study_id, deepcopy=False)
    with storage.engine.connect() as connection:
        row = connection.execute(
            select(studies, func.extract("epoch", now() - studies.c.started_at).label("age_s")).where(
                studies.c.study_id == study_id
            )
        ).one_or_none()
        units = _units(connection, study_id)
        running = _running(connection, study_id)
        enqueued = connection.execute(
            select(lineages.c.given)
            .where(
                lineages.c.study_id == study_id,
                lineages.c.state == "waiting",
                lineages.c.given.is_not(None),
                lineages.c.last_trial_id.is_(None),
            )
            .order_by(lineages.c.lineage_id)
        ).scalars()
        waiting = tuple(dict(given) for given in enqueued)
        at_work = _workers(connection, study_id)
        gpu_hours = gpu_hours_used(connection, study_id)
    ended = sum(units.get(outcome, 0) for outcome in ("complete", "pruned", "failed"))
    age_s = float(row.age_s) if row is not None and row.age_s is not None else None
    per_hour = 3600.0 * ended / age_s if age_s and ended else None
    budget = row.budget_trials if row is not None else None
    left = max(0, budget - ended) if budget is not None else None
    return StudyStatus(
        study=name,
        state=row.state if row is not None else "running",
        trials=count_states(trials),
        units={kind: units.get(kind, 0) for kind in ("complete", "pruned", "failed", "claimed", "waiting")},
        budget_trials=budget,
        budget_hours=row.budget_hours if row is not None else None,
        budget_gpu_hours=row.budget_gpu_hours if row is not None else None,
        hours=None if age_s is None else age_s / 3600.0,
        gpu_hours=gpu_hours,
        best=best_of(trials),
        running=running,
        enqueued=waiting,
        workers=at_work,
        started_at=row.started_at if row is not None else None,
        per_hour=per_hour,
        left_s=3600.0 * left / per_hour if per_hour and left is not None else None,
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


def _units(connection: Connection, study_id: int) -> dict[str, int]:
    """Trials by how they ended, else by where they are."""
    kinds = (
        select(
            func.coalesce(lineages.c.outcome, lineages.c.state).label("kind"), func.count().label("number")
        )
        .where(lineages.c.study_id == study_id)
        .group_by("kind")
    )
    return {row.kind: row.number for row in connection.execute(kinds)}


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
    )
    return tuple(running_trial(row) for row in rows)


def _workers(connection: Connection, study_id: int) -> tuple[WorkerStatus, ...]:
    rows = connection.execute(
        select(workers, func.extract("epoch", now() - workers.c.last_seen).label("ago_s"))
        .where(workers.c.study_id == study_id, workers.c.stopped_at.is_(None))
        .order_by(workers.c.started_at)
    )
    return tuple(worker_status(row) for row in rows)
