"""What a person asks about studies, and what a person tells them.

Counts of trials are read from Optuna's own tables, so that they agree with the dashboard and with any script
that uses Optuna.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import optuna
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import Row, delete, func, select, update

from hms_tune.errors import UnknownStudyError, UsageError
from hms_tune.search.feasibility import is_declined
from hms_tune.search.space import params_from_config
from hms_tune.search.study_setup import stored_study_file
from hms_tune.service.leases import DesiredState
from hms_tune.service.storage import Storage
from hms_tune.service.tables import leases, lineages, now, studies, workers

STATES = ("complete", "pruned", "failed", "declined", "running", "waiting")
_NAMES = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
    TrialState.WAITING: "waiting",
}

_UNITS = ("complete", "pruned", "failed", "claimed", "waiting")

ABSENT_S = 45.0
"""A worker not seen for this long is shown as silent."""


@dataclass(frozen=True, slots=True)
class BestTrial:
    """The complete trial with the smallest KL."""

    number: int
    value: float
    params: dict[str, Any]
    kl_high_vote: float | None


@dataclass(frozen=True, slots=True)
class RunningTrial:
    """A trial that a slot is at."""

    number: int | None
    lineage: int | None
    slot: str
    host: str
    started_at: datetime
    expires_in_s: float


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """A worker that has not stopped."""

    worker_id: str
    host: str
    pid: int
    slots: int
    devices: str
    version: str
    started_at: datetime
    seen_s_ago: float
    state: Literal["working", "silent"]


@dataclass(frozen=True, slots=True)
class StudyStatus:
    """A study at one moment.

    ``trials`` counts Optuna trials, that is attempts, by state; ``units`` counts what the budget counts:
    trials, of which one may have had several attempts. ``per_hour`` is how many trials ended in an hour since
    the first began; ``left_s`` the time the rest of the budget takes at that speed.
    """

    study: str
    state: DesiredState
    trials: dict[str, int]
    units: dict[str, int]
    budget_trials: int | None
    budget_hours: float | None
    best: BestTrial | None
    running: tuple[RunningTrial, ...]
    workers: tuple[WorkerStatus, ...]
    started_at: datetime | None
    per_hour: float | None
    left_s: float | None


@dataclass(frozen=True, slots=True)
class StudySummary:
    """One line of ``study list``."""

    study: str
    state: str
    trials: dict[str, int]
    best_value: float | None
    budget_trials: int | None


@dataclass(frozen=True, slots=True)
class TrialSummary:
    """One Optuna trial."""

    number: int
    state: str
    value: float | None
    params: dict[str, Any]
    lineage: int | None
    reason: str | None
    seconds: float | None
    attributes: dict[str, Any]
    reported: dict[int, float]


def count_states(trials: list[FrozenTrial]) -> dict[str, int]:
    """How many trials are in each state; every state is named."""
    counted = Counter(_name(trial) for trial in trials)
    return {state: counted[state] for state in STATES}


def _name(trial: FrozenTrial) -> str:
    return "declined" if is_declined(trial) else _NAMES[trial.state]


def list_studies(storage: Storage) -> list[StudySummary]:
    """Every study in the storage, by name."""
    with storage.engine.connect() as connection:
        rows = {row.study_id: row for row in connection.execute(select(studies))}
    summaries = []
    for frozen in optuna.get_all_study_summaries(storage.optuna, include_best_trial=False):
        trials = storage.optuna.get_all_trials(frozen._study_id, deepcopy=False)
        best = _best(trials)
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
    study_id = _study_id(storage, name)
    trials = storage.optuna.get_all_trials(study_id, deepcopy=False)
    with storage.engine.connect() as connection:
        row = connection.execute(
            select(studies, func.extract("epoch", now() - studies.c.started_at).label("age_s")).where(
                studies.c.study_id == study_id
            )
        ).one_or_none()
        units = {
            row.kind: row.number
            for row in connection.execute(
                select(
                    func.coalesce(lineages.c.outcome, lineages.c.state).label("kind"),
                    func.count().label("number"),
                )
                .where(lineages.c.study_id == study_id)
                .group_by("kind")
            )
        }
        running = connection.execute(
            select(
                leases,
                lineages.c.first_number,
                func.extract("epoch", leases.c.expires_at - now()).label("left_s"),
            )
            .join_from(leases, lineages, leases.c.lineage_id == lineages.c.lineage_id)
            .where(leases.c.study_id == study_id, leases.c.ended_at.is_(None))
            .order_by(leases.c.lease_id)
        ).all()
        at_work = connection.execute(
            select(workers, func.extract("epoch", now() - workers.c.last_seen).label("ago_s"))
            .where(workers.c.study_id == study_id, workers.c.stopped_at.is_(None))
            .order_by(workers.c.started_at)
        ).all()
    ended = sum(units.get(outcome, 0) for outcome in ("complete", "pruned", "failed"))
    age_s = float(row.age_s) if row is not None and row.age_s is not None else None
    per_hour = 3600.0 * ended / age_s if age_s and ended else None
    budget = row.budget_trials if row is not None else None
    left = max(0, budget - ended) if budget is not None else None
    return StudyStatus(
        study=name,
        state=row.state if row is not None else "running",
        trials=count_states(trials),
        units={kind: units.get(kind, 0) for kind in _UNITS},
        budget_trials=budget,
        budget_hours=row.budget_hours if row is not None else None,
        best=_best(trials),
        running=tuple(_running(lease) for lease in running),
        workers=tuple(_worker(worker) for worker in at_work),
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
    trials = storage.optuna.get_all_trials(_study_id(storage, name), deepcopy=False)
    if number is not None:
        trials = [trial for trial in trials if trial.number == number]
        if not trials:
            raise UsageError(f"no trial {number}", where=f"study {name}")
    return [_summary(trial) for trial in trials]


def set_state(storage: Storage, name: str, state: DesiredState) -> None:
    """Pause, resume or stop a study; its workers follow at the next event.

    Raises
    ------
    UnknownStudyError
        If there is no such study, or no worker ever joined it.
    """
    study_id = _study_id(storage, name)
    with storage.engine.begin() as connection:
        changed = connection.execute(
            update(studies)
            .where(studies.c.study_id == study_id)
            .values(state=state)
            .returning(studies.c.name)
        ).one_or_none()
    if changed is None:
        raise UnknownStudyError("no worker has joined this study yet", where=name)


def enqueue(storage: Storage, name: str, params: Mapping[str, str]) -> int:
    """Leave values for the next free slot to try; what is not given is drawn by the sampler.

    Parameters
    ----------
    params : parameter names and values as a person typed them, for example ``{"model.dropout": "0.1"}``

    Returns
    -------
    Number of the waiting trial

    Raises
    ------
    UnknownStudyError
        If there is no such study.
    ConfigError
        If a parameter is unknown, or a value is outside its range.
    """
    _study_id(storage, name)
    study = optuna.load_study(study_name=name, storage=storage.optuna)
    values = params_from_config(stored_study_file(study).space, params)
    before = {trial.number for trial in study.get_trials(deepcopy=False)}
    study.enqueue_trial(values)
    waiting = study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
    return next(trial.number for trial in waiting if trial.number not in before)


def delete_study(storage: Storage, name: str) -> None:
    """Delete a study, its trials, and what the fleet knows of it. Checkpoints are the caller's.

    Raises
    ------
    UnknownStudyError
        If there is no such study.
    UsageError
        If a worker is at it.
    """
    current = status(storage, name)
    busy = sum(1 for worker in current.workers if worker.state == "working")
    if busy:
        raise UsageError(
            f"{busy} workers are at it", where=f"study {name}", mend=f"Run hms-tune study stop {name} first"
        )
    study_id = _study_id(storage, name)
    with storage.engine.begin() as connection:
        connection.execute(delete(studies).where(studies.c.study_id == study_id))
    optuna.delete_study(study_name=name, storage=storage.optuna)


def _study_id(storage: Storage, name: str) -> int:
    try:
        return int(storage.optuna.get_study_id_from_name(name))
    except KeyError:
        raise UnknownStudyError(
            f'no study "{name}" in the storage', mend="hms-tune study list names those there are"
        ) from None


def _best(trials: list[FrozenTrial]) -> BestTrial | None:
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE and trial.value is not None]
    if not complete:
        return None
    best = min(complete, key=lambda trial: (trial.value, trial.number))
    assert best.value is not None
    return BestTrial(best.number, best.value, best.params, best.user_attrs.get("kl_high_vote"))


def _running(row: Row[Any]) -> RunningTrial:
    return RunningTrial(
        number=row.number,
        lineage=row.first_number,
        slot=row.slot,
        host=row.host,
        started_at=row.claimed_at,
        expires_in_s=round(float(row.left_s), 1),
    )


def _worker(row: Row[Any]) -> WorkerStatus:
    ago = float(row.ago_s)
    return WorkerStatus(
        worker_id=row.worker_id,
        host=row.host,
        pid=row.pid,
        slots=row.slots,
        devices=row.devices,
        version=row.version,
        started_at=row.started_at,
        seen_s_ago=round(ago, 1),
        state="silent" if ago > ABSENT_S else "working",
    )


def _summary(trial: FrozenTrial) -> TrialSummary:
    attributes = trial.user_attrs
    return TrialSummary(
        number=trial.number,
        state=_name(trial),
        value=trial.value,
        params=trial.params,
        lineage=attributes.get("lineage"),
        reason=attributes.get("reason"),
        seconds=attributes.get("seconds"),
        attributes=attributes,
        reported=trial.intermediate_values,
    )
