"""Optuna's storage, of which each read and each repeatable write waits for an absent database to return.

Creating a trial and ending one are not here: repeated, they would do it twice. :mod:`attempts` guards those.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

from optuna.storages import RDBStorage

from hms_tune.service.outages import through_outages

R = TypeVar("R")


def _patiently(method: Callable[..., R]) -> Callable[..., R]:
    @functools.wraps(method)
    def waiting(*arguments: Any, **keywords: Any) -> R:
        return through_outages(lambda: method(*arguments, **keywords))

    return waiting


class PatientStorage(RDBStorage):
    """An :class:`optuna.storages.RDBStorage` that outlives outages.

    Writing a value twice leaves it as writing it once, for each method here.
    """

    get_study_id_from_name = _patiently(RDBStorage.get_study_id_from_name)
    get_study_name_from_id = _patiently(RDBStorage.get_study_name_from_id)
    get_study_directions = _patiently(RDBStorage.get_study_directions)
    get_study_user_attrs = _patiently(RDBStorage.get_study_user_attrs)
    get_study_system_attrs = _patiently(RDBStorage.get_study_system_attrs)
    get_trial = _patiently(RDBStorage.get_trial)
    get_trial_user_attrs = _patiently(RDBStorage.get_trial_user_attrs)
    get_trial_system_attrs = _patiently(RDBStorage.get_trial_system_attrs)
    get_trial_id_from_study_id_trial_number = _patiently(RDBStorage.get_trial_id_from_study_id_trial_number)
    _get_trials = _patiently(RDBStorage._get_trials)
    _get_best_trial_id = _patiently(RDBStorage._get_best_trial_id)
    set_study_user_attr = _patiently(RDBStorage.set_study_user_attr)
    set_study_system_attr = _patiently(RDBStorage.set_study_system_attr)
    set_trial_user_attr = _patiently(RDBStorage.set_trial_user_attr)
    set_trial_system_attr = _patiently(RDBStorage.set_trial_system_attr)
    set_trial_intermediate_value = _patiently(RDBStorage.set_trial_intermediate_value)
    _set_trial_param = _patiently(RDBStorage._set_trial_param)
