"""Whether the tables of a competition folder agree with one another."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hms_tune.config.trial import DataConfig
from hms_tune.data.files.defects import Defect, DefectKind
from hms_tune.data.files.tables import read_csv
from hms_tune.data.folds import assign_folds, patients_needed
from hms_tune.data.labels import make_labels
from hms_tune.data.schema import VOTE_COLUMNS
from hms_tune.errors import DataError

SUBMISSION_COLUMNS = ("eeg_id", *VOTE_COLUMNS)
"""``sample_submission.csv``, in file order."""

_MORE_PATIENTS = "Add patients: one trains, another validates, and a patient is never on both sides."
_SUM_TOLERANCE = 1e-6
_HINT = "It is an example and is not read; `hms-tune predict` writes a submission from test.csv."
_AS_SUBMISSION = {
    DefectKind.TABLE_UNREADABLE: DefectKind.SUBMISSION_UNREADABLE,
    DefectKind.TABLE_EMPTY: DefectKind.SUBMISSION_UNREADABLE,
}


def split_defects(train: pd.DataFrame, test: pd.DataFrame, test_path: Path) -> list[Defect]:
    """EEGs and patients that stand in both halves: a score on the test half would flatter the model."""
    defects = []
    for kind, column, name in (
        (DefectKind.EEG_IN_BOTH_SPLITS, "eeg_id", "EEG"),
        (DefectKind.PATIENT_IN_BOTH_SPLITS, "patient_id", "patient"),
    ):
        shared = test[column].isin(train[column]).to_numpy()
        if shared.any():
            first, count = int(shared.argmax()), test[column][shared].nunique()
            what = f"line {first + 2}: {column} {test[column].iloc[first]} stands in train.csv too"
            what += f" ({count} such {name}s)" if count > 1 else ""
            hint = f"Take the {name} out of one half; a score on test would be too good."
            defects.append(Defect(kind, str(test_path), column, what, hint, first + 2))
    return defects


def fold_defects(train: pd.DataFrame, path: Path) -> list[Defect]:
    """Whether these patients are enough for the smallest study that there can be, and for one of defaults."""
    labels, usual = make_labels(train), DataConfig()
    fewer = (
        f"A study with the default settings takes {patients_needed(usual)} patients or more; for fewer, "
        "lower data.folds or data.holdout in its file."
    )
    for kind, config, hint in (
        (DefectKind.PATIENTS_TOO_FEW, DataConfig(folds=2, holdout=0.0), _MORE_PATIENTS),
        (DefectKind.PATIENTS_FEW, usual, fewer),
    ):
        try:
            assign_folds(labels, config)
        except DataError as error:
            return [Defect(kind, str(path), "patient_id", error.what, hint)]
    return []


def submission_defects(path: Path, test: pd.DataFrame) -> list[Defect]:
    """Where ``sample_submission.csv`` differs from what a submission for ``test.csv`` must be."""
    cells, header = read_csv(path, list(SUBMISSION_COLUMNS))
    defects = [
        Defect(
            _AS_SUBMISSION.get(defect.kind, DefectKind.SUBMISSION_COLUMNS),
            defect.file,
            defect.column,
            defect.what,
            _HINT,
        )
        for defect in header
    ]
    if "eeg_id" in cells:
        defects += _id_defects(path, cells["eeg_id"], test["eeg_id"])
    if set(VOTE_COLUMNS) <= set(cells.columns) and len(cells):
        defects += _value_defects(path, cells[list(VOTE_COLUMNS)])
    return defects


def _id_defects(path: Path, given: pd.Series, wanted: pd.Series) -> list[Defect]:
    ids = pd.to_numeric(given, errors="coerce")
    unknown, again = ~ids.isin(wanted).to_numpy(), ids.duplicated().to_numpy()
    absent = wanted[~wanted.isin(ids)]
    defects = []
    for wrong, why in ((unknown, "is not in test.csv"), (again & ~unknown, "stands in an earlier line too")):
        if wrong.any():
            line = int(wrong.argmax())
            what = f"line {line + 2}: eeg_id {given.iloc[line]} {why}"
            defects.append(_of_ids(path, what, int(wrong.sum()), "lines", line + 2))
    if not absent.empty:
        what = f"eeg_id {absent.iloc[0]} of test.csv has no line"
        defects.append(_of_ids(path, what, len(absent), "EEGs", None))
    return defects


def _of_ids(path: Path, what: str, count: int, of: str, row: int | None) -> Defect:
    what += f" ({count} such {of})" if count > 1 else ""
    return Defect(DefectKind.SUBMISSION_IDS, str(path), "eeg_id", what, _HINT, row)


def _value_defects(path: Path, votes: pd.DataFrame) -> list[Defect]:
    values: NDArray[np.float64] = votes.apply(pd.to_numeric, errors="coerce").to_numpy(np.float64)
    within = ((values >= 0) & (values <= 1)).all(axis=1)
    wrong = ~(within & (np.abs(values.sum(axis=1) - 1) <= _SUM_TOLERANCE))
    if not wrong.any():
        return []
    line, count = int(wrong.argmax()) + 2, int(wrong.sum())
    what = f"line {line}: the six values are not probabilities that sum to 1"
    what += f" ({count} such lines)" if count > 1 else ""
    return [Defect(DefectKind.SUBMISSION_VALUES, str(path), None, what, _HINT, line)]
