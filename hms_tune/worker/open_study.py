"""A study file's study, opened for a slot."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import optuna

from hms_tune.config.study_file import StudyFile
from hms_tune.config.trial import TrialConfig
from hms_tune.data.identity import DataIdentity
from hms_tune.database.connect import Storage
from hms_tune.database.queries.confirmations import as_confirmation
from hms_tune.database.queries.workers import workers_of_study
from hms_tune.database.queue.claim import Budget, is_registered, keep_to_data, next_ordinal, register_study
from hms_tune.database.queue.requests import replace_enqueued
from hms_tune.errors import SpaceChangedError
from hms_tune.search.parent import Parent, read_parent
from hms_tune.search.promotion.rule import Promotion
from hms_tune.search.promotion_sampler import LearningCurveSampler
from hms_tune.search.reports import Reporter, make_promotion, rungs_of
from hms_tune.search.study import create_or_load, trial_limit
from hms_tune.search.suggest import lies_in, start_params, suggest
from hms_tune.studies.status_types import is_working


def open_search(
    storage: Storage, study_file: StudyFile, *, ordinal: int = 0, data: DataIdentity | None = None
) -> Search:
    """Make the study, or join it, with the file's budget.

    Parameters
    ----------
    ordinal : how many slots joined the study before this one; it seeds the sampler
    data : what the caller's trials would run on; None: it runs none

    Raises
    ------
    DataChangedError
        If the study's trials ran on other data; nothing is written then.
    SpaceChangedError
        If the study was started with another search space, and it is too late to change it.
    ConfigError, UnknownStudyError
        If the parent that it names has nothing to teach, or is not there.
    """
    study, study_id = _opened(storage, study_file, ordinal, data)
    with storage.statements() as connection:
        confirms = as_confirmation(connection, study_id) is not None

    def reporter(trial: optuna.Trial) -> Reporter:
        return Reporter(trial, study_file)

    kept_gb = study_file.budget.checkpoint_gb
    return Search(
        study=study,
        study_id=study_id,
        suggest=lambda trial: suggest(study_file.space, trial),
        reporter=reporter,
        # No draw takes the place of a grid's cell, nor of a candidate that is confirmed.
        redraws=study_file.search.sampler != "grid" and not confirms,
        confirms=confirms,
        rungs=rungs_of(study_file),
        epochs=study_file.max_epochs,
        promotion=make_promotion(study_file),
        checkpoint_bytes=None if kept_gb is None else 1e9 * kept_gb,
    )


def _opened(
    storage: Storage, study_file: StudyFile, ordinal: int, data: DataIdentity | None
) -> tuple[optuna.Study, int]:
    if is_registered(storage, study_file.study):
        with suppress(SpaceChangedError):
            return _made_or_joined(storage, study_file, ordinal, data, make_way=lambda: False)
    # Of workers that start at once, one makes or changes the study and the others find it whole.
    with storage.setup_lock():
        return _made_or_joined(
            storage, study_file, ordinal, data, make_way=lambda: _made_way(storage, study_file)
        )


def _made_way(storage: Storage, study_file: StudyFile) -> bool:
    """Prepare a study that knows nothing for another search, unless a worker is at it with the old one."""
    study_id = storage.optuna.get_study_id_from_name(study_file.study)
    with storage.statements() as connection:
        if any(map(is_working, workers_of_study(connection, study_id))):
            return False
    replace_enqueued(
        storage,
        study_id,
        start_params(study_file),
        fits=lambda values: lies_in(study_file.space, values),
    )
    return True


def _made_or_joined(
    storage: Storage,
    study_file: StudyFile,
    ordinal: int,
    data: DataIdentity | None,
    *,
    make_way: Callable[[], bool],
) -> tuple[optuna.Study, int]:
    if data is not None:
        keep_to_data(storage, study_file.study, data)  # before anything else is written
    parent = read_parent(storage.optuna.shared, study_file)
    study = create_or_load(
        storage.optuna.shared,
        study_file,
        worker_seed=ordinal,
        elsewhere=() if parent is None else parent.known,
        make_way=make_way,
    )
    budget = study_file.budget
    study_id = register_study(
        storage,
        study_file.study,
        Budget(trial_limit(study_file, study), budget.hours, budget.gpu_hours, budget.patience),
        start=[*_winner(parent), *start_params(study_file)],
        data=data,
    )
    return study, study_id


def _winner(parent: Parent | None) -> list[Mapping[str, Any]]:
    return [] if parent is None or parent.winner is None else [parent.winner]


def join_search(storage: Storage, study_file: StudyFile, *, data: DataIdentity | None = None) -> Search:
    """As :func:`open_search`, for a slot: its sampler's draws differ from those of every other slot."""
    study_id = open_search(storage, study_file, data=data).study_id
    return open_search(storage, study_file, ordinal=next_ordinal(storage, study_id), data=data)


@dataclass(frozen=True, slots=True)
class Search:
    """The study as a slot needs it: Optuna's object, its configurations and its reports.

    ``redraws``: whether another draw takes the place of an infeasible one. In a grid none does, since each
    cell has one position: there an infeasible cell has failed. ``confirms``: whether the study confirms the
    leading trials of another.
    """

    study: optuna.Study
    study_id: int
    suggest: Callable[[optuna.trial.BaseTrial], TrialConfig]
    reporter: Callable[[optuna.Trial], Reporter]
    redraws: bool = True
    confirms: bool = False
    rungs: tuple[int, ...] = (0,)
    epochs: int = 0
    promotion: Promotion | None = None
    checkpoint_bytes: float | None = None

    def expected_gain(self, number: int) -> float | None:
        """What the sampler expected one more trial to gain when it drew this one; None: it does not say."""
        sampler = self.study.sampler
        return sampler.expected_gain(number) if isinstance(sampler, LearningCurveSampler) else None
