"""Optuna's private names, each used here alone; pyproject.toml caps Optuna's version because of them."""

from __future__ import annotations

from typing import Any

from optuna.storages._cached_storage import _CachedStorage as CachedStorage
from optuna.storages._rdb import models
from optuna.storages._rdb import storage as _database_storage
from optuna.storages._rdb.storage import _create_scoped_session as database_session
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial

__all__ = [
    "DATABASE_LOGGER",
    "CachedStorage",
    "all_trials_of",
    "check_trial",
    "database_session",
    "models",
    "study_id_of",
    "trial_id_of",
]

DATABASE_LOGGER: str = _database_storage.__name__
"""Name of the logger of Optuna's storage in a database."""


def trial_id_of(trial: Trial | FrozenTrial) -> int:
    """Optuna's id of a trial, which tells it from the trials of all studies."""
    return int(trial._trial_id)


def study_id_of(study: Any) -> int:
    """Optuna's id of a study, also of one that a storage or a summary describes."""
    return int(study._study_id)


def all_trials_of(study: Study) -> list[FrozenTrial]:
    """All trials; under Hyperband ``study.get_trials`` of a sampler has those of one bracket alone."""
    return study._storage.get_all_trials(study._study_id, deepcopy=False)


def check_trial(trial: FrozenTrial) -> None:
    """Raise ValueError if the parts of a trial contradict one another."""
    trial._validate()
