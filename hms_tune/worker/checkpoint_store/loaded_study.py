"""A study that came in a file, tried before anybody else sees it.

Whoever reads studies, Optuna and its dashboard among them, takes it that hms-tune wrote them. A row that fits
its table may still stop them all.
"""

from __future__ import annotations

import math
import re
import zipfile
import zlib
from collections import defaultdict
from typing import Any

from optuna.trial import FrozenTrial

from hms_tune.config.study_file import StudyFile
from hms_tune.database.connect import Transaction
from hms_tune.database.ended_trials import ended_trials
from hms_tune.database.queries import archive
from hms_tune.database.queries.archive import RowsError
from hms_tune.database.queries.confirmations import as_confirmation, confirmation_progress
from hms_tune.database.queries.records import predictions, records_of_study, unpublished_predictions
from hms_tune.database.trial_reader import read_trials
from hms_tune.errors import HmsTuneError
from hms_tune.search.optuna_private import check_trial
from hms_tune.search.study import STUDY_FILE
from hms_tune.studies.predictions import unpacked
from hms_tune.studies.trial_record import record_of
from hms_tune.training.history import StoredFolds

_NOTE_PART = re.compile(r"(.*note_str:)(\d+)")


def check_loaded(connection: Transaction, study_id: int, name: str) -> None:
    """Read a study that this transaction wrote as all others will.

    Raises
    ------
    RowsError
        If one of them could not.
    """
    try:
        attributes = archive.study_attributes(connection, study_id)
        _check_attributes(attributes, name)
        if (odd := archive.odd_column(connection, study_id)) is not None:
            raise RowsError(f"{odd}: a value that nobody could read")
        ended = ended_trials(connection, study_id)
        trials = read_trials(connection, study_id, states=None, included=(), after=-1)
        for each in (*ended, *trials):
            _check_trial(each)
        if [each.number for each in trials] != list(range(len(trials))):
            raise RowsError("optuna_trials: they are not numbered in their order")
        record_of(connection, study_id, StudyFile.from_json(attributes.user[STUDY_FILE]), trials)
        for row in records_of_study(connection, study_id).values():
            if row.folds and len(StoredFolds(row.folds)) != row.fold_count:
                raise RowsError(f"attempt_records: attempt {row.number} has not as many folds as it says")
        known = as_confirmation(connection, study_id)
        progress = None if known is None else confirmation_progress(connection, known.confirms)
        if progress is not None and progress.ranking is not None:
            progress.ranking.rows()
        for number in unpublished_predictions(connection, study_id):
            unpacked(predictions(connection, study_id, number) or b"")
    except RowsError:
        raise
    except (
        *(HmsTuneError, LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RuntimeError),
        *(zipfile.BadZipFile, zlib.error, EOFError, OSError, MemoryError),
    ) as error:
        raise RowsError(f"it cannot be read again: {type(error).__name__} {error}"[:300]) from error


def _check_attributes(attributes: archive.StudyAttributes, name: str) -> None:
    stored = attributes.user.get(STUDY_FILE)
    if not isinstance(stored, str):
        raise RowsError("optuna_study_user_attributes: the study file is missing")
    if {attributes.name, StudyFile.from_json(stored).study} != {name}:
        raise RowsError("its parts are of different studies")
    if attributes.directions != ("MINIMIZE",):
        raise RowsError("optuna_directions: not one that is minimized")
    parts: dict[str, set[int]] = defaultdict(set)
    for key, value in attributes.system.items():
        if found := _NOTE_PART.fullmatch(key):
            parts[found[1]].add(int(found[2]))
        if not _fits(key, value):
            raise RowsError(f"optuna_study_system_attributes: {key} is of another kind")
    if any(places != set(range(len(places))) for places in parts.values()):
        raise RowsError("optuna_study_system_attributes: a part of a note is missing")


def _fits(key: str, value: Any) -> bool:
    if key == "study:metric_names":
        return isinstance(value, list) and len(value) == 1 and isinstance(value[0], str)
    return type(value) is int if key.endswith("note_ver") else isinstance(value, str)


def _check_trial(trial: FrozenTrial) -> None:
    check_trial(trial)
    given = trial.system_attrs.get("fixed_params", {})
    limits = trial.system_attrs.get("constraints", [])
    if not isinstance(given, dict) or not isinstance(trial.user_attrs, dict):
        raise RowsError("optuna_system_attributes: fixed_params is of another kind")
    if not isinstance(limits, list) or not all(
        isinstance(each, int | float) and math.isfinite(each) for each in limits
    ):
        raise RowsError("optuna_system_attributes: constraints is of another kind")
