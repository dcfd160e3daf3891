"""What is known of each trial, put together from Optuna's tables and the product's own."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from optuna.trial import FrozenTrial
from optuna.trial import TrialState as OptunaState

from hms_tune.config.study_file import StudyFile
from hms_tune.database.connect import Storage
from hms_tune.database.optuna_trial import (
    KL_ALL_ROWS_ATTRIBUTE,
    KL_HIGH_VOTE_ATTRIBUTE,
    REASON_ATTRIBUTE,
    attempt_state,
    trial_number,
)
from hms_tune.database.queries.attempts import (
    AttemptRecord,
    attempts_by_trial,
    last_attempts_of_trials_ended_for,
)
from hms_tune.database.queries.records import RecordRow, records_of_study
from hms_tune.database.queue.promote import GIVEN_UP
from hms_tune.errors import ConfigError, UsageError
from hms_tune.search.list_turns import CONTINUES_ATTRIBUTE
from hms_tune.search.optuna_private import study_id_of, trial_id_of
from hms_tune.search.study import stored_study_file
from hms_tune.search.suggest import config_of
from hms_tune.studies.lookup import load_study
from hms_tune.studies.standing import Curve, Standing
from hms_tune.training.history import FoldRecord, folds_from_json
from hms_tune.trial_state import REQUEUED_OR_LOST, AttemptState, label


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialRecord:
    """One trial as its last attempt, or the attempt that was asked for, left it.

    ``trial`` and ``attempt`` are numbers; ``attempts`` has all attempts at the trial. ``reported`` has the
    estimate at each step, as the pruner saw it; ``gpus`` is the share of a GPU that the slot had, 0 on a CPU;
    ``peak_memory`` is in bytes, of the GPU, or of the process on a CPU.
    """

    trial: int
    attempt: int
    state: AttemptState
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
    def name(self) -> str:
        """``trial 5``, or ``trial 5 (attempt 12)``."""
        return f"trial {label(self.trial, self.attempt)}"

    @property
    def seconds(self) -> float:
        """Time that slots spent on the trial, over all attempts up to this one."""
        return sum(attempt.seconds for attempt in self.attempts if attempt.attempt <= self.attempt)

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
        return next((each for each in self.attempts if each.attempt == self.attempt), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyRecord:
    """A study with all its trials, attempts that went on elsewhere left out."""

    name: str
    study_id: int
    study_file: StudyFile
    trials: tuple[TrialRecord, ...]

    def ended(self, *states: AttemptState) -> list[TrialRecord]:
        """Trials in these states, by number."""
        return [trial for trial in self.trials if trial.state in states]

    @property
    def ranked(self) -> list[TrialRecord]:
        """Complete trials, the best first."""
        complete = [
            trial for trial in self.trials if trial.state == AttemptState.COMPLETE and trial.value is not None
        ]
        return sorted(complete, key=lambda trial: (trial.value, trial.attempt))

    @property
    def best(self) -> TrialRecord | None:
        """The complete trial with the smallest KL."""
        return next(iter(self.ranked), None)


def study_record(storage: Storage, name: str) -> StudyRecord:
    """A study with all its trials.

    Raises
    ------
    UnknownStudyError
        If there is no such study.
    """
    study = load_study(storage, name)
    frozen = study.get_trials(deepcopy=False)
    with storage.transaction() as connection:
        rows = records_of_study(connection, study_id_of(study))
        attempts = attempts_by_trial(connection, study_id_of(study))
        given_up = last_attempts_of_trials_ended_for(connection, study_id_of(study), GIVEN_UP)
    study_file = stored_study_file(study)
    continued = {each.user_attrs.get(CONTINUES_ATTRIBUTE) for each in frozen}
    records = (
        _record(each, study_file, rows.get(each.number), attempts, trial_id_of(each) in given_up)
        for each in frozen
        if each.number not in continued
    )
    trials = tuple(record for record in records if record.state not in REQUEUED_OR_LOST)
    return StudyRecord(name=name, study_id=study_id_of(study), study_file=study_file, trials=trials)


def trial_record(storage: Storage, study: str, number: int) -> TrialRecord:
    """One trial whole.

    Parameters
    ----------
    number : the trial's number, for its last attempt, or the number of a later attempt than its first

    Raises
    ------
    UnknownStudyError
        If there is no such study.
    UsageError
        If it has no such trial.
    """
    attempts = load_study(storage, study).get_trials(deepcopy=False)
    of_trial = [each.number for each in attempts if trial_number(each) == number]
    return attempt_record(storage, study, max(of_trial, default=number))


def attempt_record(storage: Storage, study: str, attempt: int) -> TrialRecord:
    """One trial as an attempt left it.

    Raises
    ------
    UnknownStudyError
        If there is no such study.
    UsageError
        If it has no such attempt.
    """
    loaded = load_study(storage, study)
    study_id = study_id_of(loaded)
    frozen = next((each for each in loaded.get_trials(deepcopy=False) if each.number == attempt), None)
    if frozen is None:
        raise UsageError(f"no trial {attempt}", where=f"study {study}")
    with storage.transaction() as connection:
        row = records_of_study(connection, study_id, number=attempt).get(attempt)
        attempts = attempts_by_trial(connection, study_id, trial=trial_number(frozen))
        given_up = last_attempts_of_trials_ended_for(connection, study_id, GIVEN_UP)
    return _record(frozen, stored_study_file(loaded), row, attempts, trial_id_of(frozen) in given_up)


def others_at(trial: TrialRecord, others: Sequence[TrialRecord | FrozenTrial]) -> tuple[int, float] | None:
    """How many earlier complete trials reported at a trial's last step, and their median there."""
    if not trial.reported:
        return None
    step = max(trial.reported)
    values = []
    for other in others:
        if isinstance(other, TrialRecord):
            reported, number, complete = other.reported, other.attempt, other.state == AttemptState.COMPLETE
        else:
            reported, number = other.intermediate_values, other.number
            complete = other.state == OptunaState.COMPLETE
        if complete and number < trial.attempt and step in reported:
            values.append(reported[step])
    return (len(values), statistics.median(values)) if values else None


def _config(frozen: FrozenTrial, study_file: StudyFile) -> dict[str, Any] | None:
    """The configuration of a trial that has told nothing yet; None while its values are being drawn."""
    try:
        return config_of(study_file.space, frozen.params).model_dump(mode="json")
    except (ConfigError, KeyError):
        return None


def _record(
    frozen: FrozenTrial,
    study_file: StudyFile,
    row: RecordRow | None,
    attempts: dict[int, tuple[AttemptRecord, ...]],
    given_up: bool,
) -> TrialRecord:
    """``given_up``: whether the trial was paused, and ended so."""
    row = row or RecordRow(number=frozen.number)
    attributes = frozen.user_attrs
    trial, state = trial_number(frozen), AttemptState.PRUNED if given_up else attempt_state(frozen)
    return TrialRecord(
        trial=trial,
        attempt=frozen.number,
        state=state,
        value=frozen.value if state is AttemptState.COMPLETE else None,
        kl_all_rows=attributes.get(KL_ALL_ROWS_ATTRIBUTE),
        kl_high_vote=attributes.get(KL_HIGH_VOTE_ATTRIBUTE),
        reason=GIVEN_UP if given_up else attributes.get(REASON_ATTRIBUTE) or row.reason,
        traceback=row.traceback,
        params=dict(frozen.params),
        config=row.config or _config(frozen, study_file),
        folds=folds_from_json(row.folds) if row.folds else (),
        reported=dict(frozen.intermediate_values),
        device=row.device,
        device_name=row.device_name,
        gpus=row.gpus,
        peak_memory=row.peak_memory,
        data_digest=row.data_digest,
        version=row.version,
        run_url=row.run_url,
        attempts=attempts.get(trial, ()),
    )


def standing_among(trials: Iterable[TrialRecord | FrozenTrial], epochs: int) -> Standing:
    """What those of some trials that are complete tell of how hard the folds are.

    Parameters
    ----------
    epochs : the most epochs of a fold
    """
    curves: list[Curve] = []
    for trial in trials:
        if isinstance(trial, TrialRecord):
            reported, is_complete = trial.reported, trial.state == AttemptState.COMPLETE
        else:
            reported, is_complete = trial.intermediate_values, trial.state == OptunaState.COMPLETE
        if is_complete and trial.value is not None:
            curves.append((reported, trial.value))
    return Standing.of(curves, epochs)
