"""What is known of each trial, put together from Optuna's tables and the product's own."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from optuna.trial import FrozenTrial

from hms_tune.config.ranges import Group
from hms_tune.config.study_file import StudyFile
from hms_tune.database.connect import Storage, Transaction
from hms_tune.database.optuna_trial import (
    KL_ALL_ROWS_ATTRIBUTE,
    KL_HIGH_VOTE_ATTRIBUTE,
    REASON_ATTRIBUTE,
    attempt_state,
    trial_number,
)
from hms_tune.database.queries.attempts import (
    AttemptRow,
    attempts_by_trial,
    last_attempts_of_trials_ended_for,
)
from hms_tune.database.queries.data_sets import torch_versions
from hms_tune.database.queries.records import RecordRow, records_of_study
from hms_tune.database.queries.totals import (
    best_complete_attempt,
    best_estimate,
    complete_and_better,
    complete_curves,
    earlier_estimates,
)
from hms_tune.database.queue.promote import GIVEN_UP
from hms_tune.errors import ConfigError, UsageError
from hms_tune.search.list_turns import CONTINUES_ATTRIBUTE
from hms_tune.search.optuna_private import study_id_of, trial_id_of
from hms_tune.search.study import stored_study_file
from hms_tune.search.suggest import config_of
from hms_tune.studies.lookup import load_study
from hms_tune.studies.standing import Standing
from hms_tune.training.history import FoldRecord, StoredFolds
from hms_tune.trial_state import REQUEUED_OR_LOST, AttemptState, label


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialRecord:
    """One trial as its last attempt, or the attempt that was asked for, left it.

    ``trial`` and ``attempt`` are numbers; ``attempts`` has all attempts at the trial. ``reported`` has the
    estimate at each step, as the pruner saw it; ``gpus`` is the share of a GPU that the slot had, 0 on a CPU;
    ``peak_memory`` is in bytes, of the GPU, or of the process on a CPU. ``stored_config`` is the
    configuration as it was read: of thousands of trials nobody looks at all.
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
    stored_config: dict[str, Any] | str | None
    folds: Sequence[FoldRecord]
    reported: dict[int, float]
    device: str | None
    device_name: str | None
    gpus: float
    peak_memory: int | None
    data_digest: str | None
    version: str | None
    run_url: str | None
    attempts: tuple[AttemptRow, ...]

    @property
    def name(self) -> str:
        """``trial 5``, or ``trial 5 (attempt 12)``."""
        return f"trial {label(self.trial, self.attempt)}"

    @property
    def config(self) -> dict[str, Any] | None:
        """The configuration; None while its values are being drawn."""
        stored = self.stored_config
        found: dict[str, Any] | None = json.loads(stored) if isinstance(stored, str) else stored
        return found

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
        folds = self.folds
        return folds.epochs if isinstance(folds, StoredFolds) else sum(len(fold.epochs) for fold in folds)

    @property
    def last_attempt(self) -> AttemptRow | None:
        """Who had it last."""
        return next((each for each in self.attempts if each.attempt == self.attempt), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyRecord:
    """A study with all its trials, attempts that went on elsewhere left out.

    ``torch``: the versions of PyTorch that its workers ran.
    """

    name: str
    study_id: int
    study_file: StudyFile
    trials: tuple[TrialRecord, ...]
    torch: tuple[str, ...] = ()

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
        return record_of(connection, study_id_of(study), stored_study_file(study), frozen)


def record_of(
    connection: Transaction, study_id: int, study_file: StudyFile, frozen: Sequence[FrozenTrial]
) -> StudyRecord:
    """A study whose trials Optuna has read."""
    rows = records_of_study(connection, study_id)
    attempts = attempts_by_trial(connection, study_id)
    given_up = last_attempts_of_trials_ended_for(connection, study_id, GIVEN_UP)
    torch = tuple(torch_versions(connection, study_id))
    continued = {each.user_attrs.get(CONTINUES_ATTRIBUTE) for each in frozen}
    records = (
        _record(each, study_file.space, rows.get(each.number), attempts, trial_id_of(each) in given_up)
        for each in frozen
        if each.number not in continued
    )
    trials = tuple(record for record in records if record.state not in REQUEUED_OR_LOST)
    return StudyRecord(
        name=study_file.study, study_id=study_id, study_file=study_file, trials=trials, torch=torch
    )


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
    loaded = load_study(storage, study)
    study_id = study_id_of(loaded)
    with storage.statements() as connection:
        of_trial = attempts_by_trial(connection, study_id, trial=number).get(number, ())
    last = max((each.attempt for each in of_trial), default=number)
    try:
        return trial_record_at(storage, study_id, last, space=stored_study_file(loaded).space)
    except KeyError:
        raise UsageError(f"no trial {number}", where=f"study {study}") from None


def trial_record_at(
    storage: Storage,
    study_id: int,
    attempt: int,
    *,
    space: Group | None = None,
    row: RecordRow | None = None,
) -> TrialRecord:
    """One trial as an attempt left it.

    Parameters
    ----------
    space : the study's, for the configuration of an attempt that has told none
    row : what the attempt told; None: it is read

    Raises
    ------
    KeyError
        If the study has no such attempt.
    """
    optuna = storage.optuna.shared
    frozen = optuna.get_trial(optuna.get_trial_id_from_study_id_trial_number(study_id, attempt))
    trial = trial_number(frozen)
    with storage.statements() as connection:
        row = row or records_of_study(connection, study_id, number=attempt).get(attempt)
        attempts = attempts_by_trial(connection, study_id, trial=trial)
        given_up = last_attempts_of_trials_ended_for(connection, study_id, GIVEN_UP, trial=trial)
    return _record(frozen, space, row, attempts, trial_id_of(frozen) in given_up)


@dataclass(frozen=True, slots=True)
class Others:
    """The complete trials beside which one is seen.

    Attributes
    ----------
    number, median : how many of the earlier ones reported at its last step, and their median there
    standing : what its estimate is held against
    """

    number: int
    median: float | None
    standing: Standing


def others_before(storage: Storage, study_id: int, trial: TrialRecord) -> Others | None:
    """The others of a trial, asked of the database; None: it has reported nothing."""
    if not trial.reported:
        return None
    epochs = trial.folds[-1].epochs_planned if trial.folds else 0
    with storage.statements() as connection:
        found = earlier_estimates(connection, study_id, trial.trial, max(trial.reported))
        ratios = Standing.of(complete_curves(connection, study_id), epochs).ratios
        best = best_estimate(connection, study_id)
    number, median = found or (0, None)
    return Others(number, median, Standing(best, ratios))


@dataclass(frozen=True, slots=True)
class Ranking:
    """Where a trial stands in its study.

    Attributes
    ----------
    study : the study's name
    rank : how many complete trials there are up to it, the best first; None: it is not complete
    complete : how many complete trials there are
    best : the best one; None: none is complete
    others : beside whom it is seen; None: it has reported nothing
    """

    study: str
    rank: int | None
    complete: int
    best: TrialRecord | None
    others: Others | None


def ranking_of(storage: Storage, study: str, trial: TrialRecord) -> Ranking:
    """Where a trial stands in its study; the study's other trials are not read."""
    loaded = load_study(storage, study)
    study_id = study_id_of(loaded)
    with storage.statements() as connection:
        complete, before = complete_and_better(connection, study_id, trial.value, trial.attempt)
        number = best_complete_attempt(connection, study_id)
    space = stored_study_file(loaded).space
    return Ranking(
        study=study,
        rank=before + 1 if trial.state is AttemptState.COMPLETE else None,
        complete=complete,
        best=None if number is None else trial_record_at(storage, study_id, number, space=space),
        others=others_before(storage, study_id, trial),
    )


def _config(frozen: FrozenTrial, space: Group | None) -> dict[str, Any] | None:
    """The configuration of a trial that has told nothing yet; None while its values are being drawn."""
    if space is None:
        return None
    try:
        return config_of(space, frozen.params).model_dump(mode="json")
    except (ConfigError, KeyError):
        return None


def _record(
    frozen: FrozenTrial,
    space: Group | None,
    row: RecordRow | None,
    attempts: dict[int, tuple[AttemptRow, ...]],
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
        stored_config=row.config or _config(frozen, space),
        folds=StoredFolds(row.folds, folds=row.fold_count, epochs=row.epochs_run) if row.folds else (),
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
