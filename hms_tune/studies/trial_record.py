"""What is known of each trial, put together from Optuna's tables and the product's own."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import ColumnElement, Row, and_, func, select

from hms_tune.config.study_file import StudyFile
from hms_tune.database.connect import Storage
from hms_tune.database.tables import leases, lineages, now, trial_records
from hms_tune.errors import ConfigError, UnknownStudyError, UsageError
from hms_tune.search.memory_constraint import is_declined
from hms_tune.search.study import stored_study_file
from hms_tune.search.suggest import config_of
from hms_tune.training.history import FoldRecord, folds_from_json

_STATES = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
    TrialState.WAITING: "waiting",
}
_GOES_ON = ("handed_back", "lost")


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptRecord:
    """One attempt at a trial: who had it, when, and how it left. ``seconds`` runs on while it is running."""

    number: int
    host: str
    slot: str
    worker_id: str
    started_at: datetime
    ended_at: datetime | None
    seconds: float
    outcome: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialRecord:
    """One trial as its last attempt, or the attempt that was asked for, left it.

    ``state`` is ``complete``, ``pruned``, ``failed``, ``declined`` (the device had no room for it),
    ``handed_back``, ``lost``, ``running`` or ``waiting``; ``lineage`` is the number of the trial's first
    attempt, and ``attempts`` has all of them. ``reported`` has the estimate at each step, as the pruner saw
    it; ``gpus`` is the share of a GPU that the slot had, 0 on a CPU; ``peak_memory`` is in bytes, of the GPU,
    or of the process on a CPU.
    """

    number: int
    lineage: int
    state: str
    value: float | None
    kl_all_rows: float | None
    kl_high_vote: float | None
    reason: str | None
    traceback: str | None
    params: dict[str, Any]
    config: dict[str, Any] | None
    folds: tuple[FoldRecord, ...]
    reported: dict[int, float]
    device: str | None
    device_name: str | None
    gpus: float
    peak_memory: int | None
    data_digest: str | None
    version: str | None
    run_url: str | None
    attempts: tuple[AttemptRecord, ...]

    @property
    def seconds(self) -> float:
        """Time that slots spent on the trial, over all attempts up to this one."""
        return sum(attempt.seconds for attempt in self.attempts if attempt.number <= self.number)

    @property
    def cost(self) -> float:
        """GPU-seconds, or slot-seconds on a CPU."""
        return self.seconds * (self.gpus or 1.0)

    @property
    def epochs_run(self) -> int:
        """Epochs over all folds."""
        return sum(len(fold.epochs) for fold in self.folds)

    @property
    def last_attempt(self) -> AttemptRecord | None:
        """Who had it last."""
        return next((each for each in self.attempts if each.number == self.number), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyRecord:
    """A study with all its trials, attempts that went on elsewhere left out."""

    name: str
    study_id: int
    study_file: StudyFile
    trials: tuple[TrialRecord, ...]

    def ended(self, *states: str) -> list[TrialRecord]:
        """Trials in these states, by number."""
        return [trial for trial in self.trials if trial.state in states]

    @property
    def ranked(self) -> list[TrialRecord]:
        """Complete trials, the best first."""
        complete = [trial for trial in self.trials if trial.state == "complete" and trial.value is not None]
        return sorted(complete, key=lambda trial: (trial.value, trial.number))

    @property
    def best(self) -> TrialRecord | None:
        """The complete trial with the smallest KL."""
        return next(iter(self.ranked), None)


def load_study(storage: Storage, name: str) -> optuna.Study:
    """A study by its name.

    Raises
    ------
    UnknownStudyError
        If there is none.
    """
    try:
        return optuna.load_study(study_name=name, storage=storage.optuna.shared)
    except KeyError:
        raise UnknownStudyError(
            f'no study "{name}" in the storage', mend="hms-tune study list names those there are"
        ) from None


def study_record(storage: Storage, name: str) -> StudyRecord:
    """A study with all its trials.

    Raises
    ------
    UnknownStudyError
        If there is no such study.
    """
    study = load_study(storage, name)
    frozen = study.get_trials(deepcopy=False)
    rows = _rows(storage, trial_records.c.study_id == study._study_id)
    attempts = _attempts(storage, leases.c.study_id == study._study_id)
    study_file = stored_study_file(study)
    trials = tuple(
        record
        for each in frozen
        if (record := _record(each, study_file, rows.get(each.number), attempts)).state not in _GOES_ON
    )
    return StudyRecord(name=name, study_id=study._study_id, study_file=study_file, trials=trials)


def trial_record(storage: Storage, study: str, number: int) -> TrialRecord:
    """One trial whole.

    Raises
    ------
    UnknownStudyError
        If there is no such study.
    UsageError
        If it has no such trial.
    """
    loaded = load_study(storage, study)
    study_id = loaded._study_id
    frozen = next((each for each in loaded.get_trials(deepcopy=False) if each.number == number), None)
    if frozen is None:
        raise UsageError(f"no trial {number}", where=f"study {study}")
    lineage = int(frozen.user_attrs.get("lineage", number))
    own = and_(trial_records.c.study_id == study_id, trial_records.c.number == number)
    of_lineage = and_(leases.c.study_id == study_id, lineages.c.first_number == lineage)
    row = _rows(storage, own).get(number)
    return _record(frozen, stored_study_file(loaded), row, _attempts(storage, of_lineage))


def others_at(trial: TrialRecord, others: Sequence[TrialRecord | FrozenTrial]) -> tuple[int, float] | None:
    """How many earlier complete trials reported at a trial's last step, and their median there."""
    if not trial.reported:
        return None
    step = max(trial.reported)
    values = []
    for other in others:
        if isinstance(other, TrialRecord):
            reported, complete = other.reported, other.state == "complete"
        else:
            reported, complete = other.intermediate_values, other.state == TrialState.COMPLETE
        if complete and other.number < trial.number and step in reported:
            values.append(reported[step])
    return (len(values), statistics.median(values)) if values else None


def _rows(storage: Storage, condition: ColumnElement[bool]) -> dict[int, Row[Any]]:
    with storage.engine.connect() as connection:
        return {row.number: row for row in connection.execute(select(trial_records).where(condition))}


def _attempts(storage: Storage, condition: ColumnElement[bool]) -> dict[int, tuple[AttemptRecord, ...]]:
    """The attempts of each lineage, by the number of its first."""
    seconds = func.extract("epoch", func.coalesce(leases.c.ended_at, now()) - leases.c.claimed_at)
    statement = (
        select(leases, lineages.c.first_number, seconds.label("seconds"))
        .join_from(leases, lineages, leases.c.lineage_id == lineages.c.lineage_id)
        .where(condition, leases.c.number.is_not(None))
        .order_by(leases.c.lease_id)
    )
    found: dict[int, list[AttemptRecord]] = defaultdict(list)
    with storage.engine.connect() as connection:
        for row in connection.execute(statement):
            found[row.first_number].append(
                AttemptRecord(
                    number=row.number,
                    host=row.host,
                    slot=row.slot,
                    worker_id=row.worker_id,
                    started_at=row.claimed_at,
                    ended_at=row.ended_at,
                    seconds=float(row.seconds),
                    outcome=row.outcome,
                )
            )
    return {lineage: tuple(each) for lineage, each in found.items()}


def _config(frozen: FrozenTrial, study_file: StudyFile) -> dict[str, Any] | None:
    """The configuration of a trial that has told nothing yet; None while its values are being drawn."""
    try:
        return config_of(study_file.space, frozen.params).model_dump(mode="json")
    except (ConfigError, KeyError):
        return None


def _record(
    frozen: FrozenTrial,
    study_file: StudyFile,
    row: Row[Any] | None,
    attempts: dict[int, tuple[AttemptRecord, ...]],
) -> TrialRecord:
    attributes = frozen.user_attrs
    lineage = int(attributes.get("lineage", frozen.number))
    ending = attributes.get("ended")
    state = "declined" if is_declined(frozen) else _STATES[frozen.state]
    if frozen.state == TrialState.FAIL and ending in _GOES_ON:
        state = str(ending)
    return TrialRecord(
        number=frozen.number,
        lineage=lineage,
        state=state,
        value=frozen.value if frozen.state == TrialState.COMPLETE else None,
        kl_all_rows=attributes.get("kl_all_rows"),
        kl_high_vote=attributes.get("kl_high_vote"),
        reason=attributes.get("reason") or (row.reason if row else None),
        traceback=row.traceback if row else None,
        params=dict(frozen.params),
        config=(row.config if row else None) or _config(frozen, study_file),
        folds=folds_from_json(row.folds) if row is not None and row.folds else (),
        reported=dict(frozen.intermediate_values),
        device=row.device if row else None,
        device_name=row.device_name if row else None,
        gpus=row.gpus if row else 0.0,
        peak_memory=row.peak_memory if row else None,
        data_digest=row.data_digest if row else None,
        version=row.version if row else None,
        run_url=row.run_url if row else None,
        attempts=attempts.get(lineage, ()),
    )
