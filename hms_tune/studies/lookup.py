"""A study by its name."""

from __future__ import annotations

import optuna

from hms_tune.config.yaml_lines import nearest
from hms_tune.database.connect import Storage
from hms_tune.database.queries.studies import is_ours, study_names
from hms_tune.errors import UnknownStudyError
from hms_tune.search.study import foreign_study


def find_study(storage: Storage, name: str) -> int:
    """Optuna's id of a study that hms-tune made.

    Raises
    ------
    UnknownStudyError
        If the storage has no study of that name.
    StorageError
        If another program made it.
    """
    study_id = find_any_study(storage, name)
    with storage.transaction() as connection:
        if not is_ours(connection, study_id):
            raise foreign_study(name)
    return study_id


def find_any_study(storage: Storage, name: str) -> int:
    """Optuna's id of a study, whoever made it.

    Raises
    ------
    UnknownStudyError
        If the storage has no study of that name.
    """
    try:
        return int(storage.optuna.get_study_id_from_name(name))
    except KeyError:
        raise _unknown(storage, name) from None


def load_study(storage: Storage, name: str) -> optuna.Study:
    """A study of Optuna's.

    Raises
    ------
    UnknownStudyError
        If the storage has no study of that name.
    """
    try:
        return optuna.load_study(study_name=name, storage=storage.optuna.shared)
    except KeyError:
        raise _unknown(storage, name) from None


def _unknown(storage: Storage, name: str) -> UnknownStudyError:
    with storage.transaction() as connection:
        names = [known for _, known in study_names(connection)]
    near = nearest(name, names)
    meant = f"{near[0].upper()}{near[1:]}; " if near.startswith("nearest") else ""
    return UnknownStudyError(
        f'no study "{name}" in the storage', hint=f"{meant}hms-tune study list names those there are"
    )
