"""What a person asks about studies.

Counts of trials are read from Optuna's own tables, so that they agree with the dashboard and with any script
that uses Optuna.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from optuna.trial import FrozenTrial
from optuna.trial import TrialState as OptunaState

from hms_tune.config.study_file import StudyFile
from hms_tune.database.connect import Storage, Transaction
from hms_tune.database.queries import totals
from hms_tune.database.queries.attempts import enqueued_values, reasons_of_last_attempts
from hms_tune.database.queries.confirmations import confirmation_progress
from hms_tune.database.queries.studies import is_ours, study_names
from hms_tune.database.queries.trial_list import AttemptKey, attempt_keys, param_names
from hms_tune.database.queries.workers import running_trials, workers_of_study
from hms_tune.database.queue.end import STOPPED_BY_A_PERSON
from hms_tune.database.queue.promote import GIVEN_UP
from hms_tune.database.trial_reader import trials_by_id
from hms_tune.search.optuna_private import trial_id_of
from hms_tune.search.reports import fold_of_step
from hms_tune.search.study import STUDY_FILE
from hms_tune.studies.lookup import find_any_study, find_study
from hms_tune.studies.score import stored_corrected
from hms_tune.studies.standing import Curve, Estimate, Standing
from hms_tune.studies.status_types import (
    FOREIGN,
    BestTrial,
    StudyStatus,
    StudySummary,
    TrialSummary,
    is_working,
    trial_summary,
    worker_status,
)
from hms_tune.studies.totals import StudyState, StudyTotals, study_totals
from hms_tune.trial_state import TrialState


def list_studies(storage: Storage) -> list[StudySummary]:
    """Every study in the storage, by name, those of other programs too."""
    with storage.transaction() as connection:
        return [_summary(connection, *each) for each in study_names(connection)]


def _summary(connection: Transaction, study_id: int, name: str) -> StudySummary:
    used = study_totals(connection, study_id)
    best = totals.leader(connection, study_id)
    ours = is_ours(connection, study_id)
    return StudySummary(
        study=name,
        state=_state(connection, used) if ours else FOREIGN,
        trials=_trials(connection, used) if ours else totals.attempts_by_state(connection, study_id),
        best_value=best.value if best else None,
        budget_trials=used.row.budget_trials,
    )


def _state(connection: Transaction, used: StudyTotals) -> StudyState:
    rows = workers_of_study(connection, used.row.study_id)
    return used.state(at_work=any(is_working(row) for row in rows))


def _trials(connection: Transaction, used: StudyTotals) -> dict[TrialState, int]:
    """Trials by state, with those that scripts added."""
    of_scripts = totals.scripts_trials_by_state(connection, used.row.study_id)
    return {state: number + of_scripts.get(state, 0) for state, number in used.trials.items()}


def study_state(storage: Storage, name: str) -> StudyState:
    """How a study that hms-tune made stands.

    Raises
    ------
    UnknownStudyError
        If there is no such study.
    StorageError
        If another program made it.
    """
    study_id = find_study(storage, name)
    with storage.transaction() as connection:
        return _state(connection, study_totals(connection, study_id))


def status(storage: Storage, name: str) -> StudyStatus:
    """How a study stands. One that another program made has its trials, and its best in its own direction.

    Raises
    ------
    UnknownStudyError
        If the storage has no study of that name.
    """
    study_id = find_any_study(storage, name)
    with storage.transaction() as connection:
        ours = is_ours(connection, study_id)
        used = study_totals(connection, study_id)
        attempts = totals.attempts_by_state(connection, study_id)
        running = running_trials(connection, study_id)
        workers = workers_of_study(connection, study_id)
        best_ids = totals.best_attempt_ids(connection, study_id)
        failed = totals.failure_reasons(connection, study_id)
        pruned = totals.last_steps_of_pruned(connection, study_id) if used.trials[TrialState.PRUNED] else {}
        enqueued = enqueued_values(connection, study_id)
        trials = _trials(connection, used)
        curves = totals.complete_curves(connection, study_id) if running else []
        confirmation = confirmation_progress(connection, name)
    leaders = tuple(BestTrial.of(storage.optuna.get_trial(each)) for each in best_ids)
    row = used.row
    state = used.state(at_work=any(is_working(each) for each in workers))
    study_file = _stored_file(storage, study_id) if pruned or running else None
    return StudyStatus(
        study=name,
        state=state if ours else FOREIGN,
        trials=trials,
        attempts=attempts,
        budget_trials=row.budget_trials,
        budget_hours=row.budget_hours,
        budget_gpu_hours=row.budget_gpu_hours,
        hours=used.seconds / 3600.0,
        gpu_hours=used.gpu_hours,
        patience=used.patience,
        best=leaders[0] if leaders else None,
        leaders=leaders,
        failed_because=failed,
        pruned_in_fold=_by_fold(study_file, pruned),
        running=running,
        standing=_standing(study_file, leaders[0].value if leaders else None, curves),
        folds=0 if study_file is None else study_file.max_folds,
        epochs=0 if study_file is None else study_file.max_epochs,
        enqueued=enqueued,
        workers=tuple(worker_status(each, running) for each in workers),
        started_at=row.started_at,
        per_hour=used.trials_per_hour,
        images_per_second=used.images_per_second,
        left_s=used.seconds_left,
        ends_at=used.ends_at if state == "running" else None,
        confirmation=confirmation,
        corrected=stored_corrected(storage, study_id, leaders[0].trial) if ours and leaders else None,
    )


_ENDED_LATER = {STOPPED_BY_A_PERSON: TrialState.FAILED, GIVEN_UP: TrialState.PRUNED}
"""How a trial ended that was stopped or given up while no slot was at it: after its last attempt had."""

_READ_AT_ONCE = 200
"""Of a study of any length, so many attempts are in memory."""


def parameter_names(storage: Storage, name: str) -> list[str]:
    """The names of all parameters that attempts of a study have.

    Raises
    ------
    UnknownStudyError
        If there is no such study.
    """
    study_id = find_study(storage, name)
    with storage.transaction() as connection:
        return param_names(connection, study_id)


def attempt_list(storage: Storage, scale: EstimateScale, *, param: str | None = None) -> list[AttemptKey]:
    """The attempts of a study by what they may be sorted by.

    Parameters
    ----------
    param : a parameter by which they may be sorted, too
    """
    with storage.transaction() as connection:
        keys = attempt_keys(connection, scale.study_id, ended_later=_ENDED_LATER, param=param)
    return [
        key
        if key.value is None or key.step is None
        else replace(key, value=scale.estimate(key.value, key.step).value)
        for key in keys
    ]


def attempts_shown(
    storage: Storage, optuna_trial_ids: Sequence[int], scale: EstimateScale
) -> Iterator[TrialSummary]:
    """Attempts, read as they are asked for, some at a time."""
    for place in range(0, len(optuna_trial_ids), _READ_AT_ONCE):
        asked = optuna_trial_ids[place : place + _READ_AT_ONCE]
        with storage.transaction() as connection:
            found = {trial_id_of(trial): trial for trial in trials_by_id(connection, asked)}
            later = reasons_of_last_attempts(connection, asked, among=tuple(_ENDED_LATER))
        for each in asked:
            if each in found:
                reason = later.get(each)
                state = None if reason is None else _ENDED_LATER[reason]
                yield trial_summary(found[each], scale.estimate_of(found[each]), state, reason)


@dataclass(frozen=True, slots=True)
class EstimateScale:
    """What estimates of a study's trials are held against, and of which folds they are."""

    study_id: int
    standing: Standing
    study_file: StudyFile | None

    def estimate(self, reported: float, step: int) -> Estimate:
        """What a trial reported at a step, as it is shown beside complete ones."""
        if self.study_file is None:
            return Estimate(reported, fold=0, folds=0, remark="")
        folds = self.study_file.max_folds
        return self.standing.estimate(reported, min(fold_of_step(step, self.study_file) + 1, folds), folds)

    def estimate_of(self, trial: FrozenTrial) -> Estimate | None:
        """What a trial came to that was trained in part; None: it was not, or has reported nothing."""
        reported = trial.intermediate_values
        if trial.state not in (OptunaState.PRUNED, OptunaState.RUNNING) or not reported:
            return None
        step = max(reported)
        return self.estimate(reported[step], step) if math.isfinite(reported[step]) else None


def estimate_scale(storage: Storage, name: str) -> EstimateScale:
    """What estimates of a study's trials are held against.

    Raises
    ------
    UnknownStudyError
        If there is no such study.
    """
    study_id = find_study(storage, name)
    with storage.transaction() as connection:
        curves = totals.complete_curves(connection, study_id)
        best = totals.leader(connection, study_id)
    study_file = _stored_file(storage, study_id)
    return EstimateScale(
        study_id, _standing(study_file, None if best is None else best.value, curves), study_file
    )


def _stored_file(storage: Storage, study_id: int) -> StudyFile | None:
    stored = storage.optuna.get_study_user_attrs(study_id).get(STUDY_FILE)
    return StudyFile.from_json(stored) if isinstance(stored, str) else None


def _standing(study_file: StudyFile | None, best: float | None, curves: Sequence[Curve]) -> Standing:
    """What estimates are held against."""
    if study_file is None or study_file.search.pruner.compares_whole_folds:
        return Standing()
    return Standing(best, Standing.of(curves, study_file.max_epochs).ratios)


def _by_fold(study_file: StudyFile | None, steps: dict[int, int]) -> dict[int, int]:
    """Counts of trials by the fold, from 1, in which they reported their last step."""
    if study_file is None:
        return {}
    by_fold: Counter[int] = Counter()
    for step, number in steps.items():
        by_fold[fold_of_step(step, study_file) + 1] += number
    return dict(sorted(by_fold.items()))
