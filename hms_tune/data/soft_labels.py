"""Soft labels that a model gave to rows of few votes: ``soft_labels/NAME.parquet`` in the competition folder.

Where that is not there, or not to be written to, they lie in ``HMS_TUNE_HOME``.

Rows of few votes may learn from them in place of their votes. What is validated and scored is always judged
by the experts' votes.
"""

from __future__ import annotations

import json
import os
import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from hms_tune.config.trial import DataConfig
from hms_tune.data.closed_folder import place_at_home, takes_files
from hms_tune.data.folds import held_out_patients
from hms_tune.data.labels import Labels, Rows, make_labels
from hms_tune.data.number_columns import read_numbers
from hms_tune.data.schema import CLASSES
from hms_tune.errors import DataError, first_line
from hms_tune.machine.private_folder import private_folder, private_mode

FOLDER = "soft_labels"
_PROBABILITIES = [f"{name.lower()}_probability" for name in CLASSES]
_KEY = ["eeg_id", "eeg_label_offset_seconds"]
_ABOUT = b"hms_tune"
_DAMAGE = (OSError, ValueError, TypeError, LookupError, OverflowError, RecursionError, MemoryError)


@dataclass(frozen=True, slots=True)
class SoftLabels:
    """Labels by a model, one for each row of few votes.

    Attributes
    ----------
    teacher : the bundle's study and trial, for people
    rows : what a row is, as in ``data.rows``
    taught_by : int64, sorted: the patients whose votes the teacher learnt from
    eeg_id, eeg_offset_seconds : int64 and float64 (n,), which rows
    probabilities : float32 (n, 6), summing to 1, by models that never saw the row's patient
    """

    teacher: str
    rows: Rows
    taught_by: NDArray[np.int64]
    eeg_id: NDArray[np.int64]
    eeg_offset_seconds: NDArray[np.float64]
    probabilities: NDArray[np.float32]

    def write(self, path: Path) -> None:
        """Write the file whole, in place of one that is there."""
        columns: dict[str, object] = {_KEY[0]: self.eeg_id, _KEY[1]: self.eeg_offset_seconds}
        columns |= {name: self.probabilities[:, place] for place, name in enumerate(_PROBABILITIES)}
        about = {"teacher": self.teacher, "rows": self.rows, "taught_by": self.taught_by.tolist()}
        table = pa.Table.from_pandas(pd.DataFrame(columns), preserve_index=False)
        table = table.replace_schema_metadata({_ABOUT: json.dumps(about).encode()})
        partial = path.with_name(f".{path.name}.partial")
        private_folder(path.parent, links=False)
        partial.unlink(missing_ok=True)
        made = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, private_mode(path.parent))
        with os.fdopen(made, "wb") as file:
            pq.write_table(table, file)
        partial.replace(path)

    @classmethod
    def read(cls, path: Path, *, root: Path | None = None) -> SoftLabels:
        """Read a file.

        Parameters
        ----------
        root : the competition folder, if the file is not there

        Raises
        ------
        DataError
            If it is not there, or none that ``hms-tune data label`` wrote.
        """
        folder = shlex.quote(str(root or path.parent.parent))
        hint = f"Write it with hms-tune data label BUNDLE {folder} --name {path.stem}, "
        hint += "or copy it from where it was written"
        try:
            table = read_numbers(path, whole=_KEY[:1], real=[_KEY[1], *_PROBABILITIES])
            about = json.loads((table.schema.metadata or {})[_ABOUT])
            frame = table.to_pandas()
            if frame.duplicated(_KEY).any():
                raise ValueError("a row stands there twice")
            if about["rows"] not in get_args(Rows):
                raise ValueError("it does not say what a row is")
            found = cls(
                teacher=str(about["teacher"]),
                rows=about["rows"],
                taught_by=np.array(about["taught_by"], dtype=np.int64),
                eeg_id=frame[_KEY[0]].to_numpy(np.int64),
                eeg_offset_seconds=frame[_KEY[1]].to_numpy(np.float64),
                probabilities=frame[_PROBABILITIES].to_numpy(np.float32),
            )
        except FileNotFoundError:
            raise DataError("there are no such soft labels", where=path, hint=hint) from None
        except (*_DAMAGE, pa.ArrowException) as error:
            raise DataError(
                f"these are no soft labels: {first_line(error)}", where=path, hint=hint
            ) from error
        sums = found.probabilities.sum(axis=1)
        if (np.abs(sums - 1.0) > 1e-3).any() or (found.probabilities < 0).any():
            raise DataError("these are no soft labels: rows do not sum to 1", where=path, hint=hint)
        return found

    def on(self, labels: Labels) -> NDArray[np.float32]:
        """The label of each row, float32 (n_rows, 6); NaN where there is none."""
        own = pd.MultiIndex.from_arrays([self.eeg_id, self.eeg_offset_seconds])
        place = own.get_indexer(pd.MultiIndex.from_arrays([labels.eeg_id, labels.eeg_offset_seconds]))
        soft = np.full((len(labels), len(CLASSES)), np.nan, dtype=np.float32)
        soft[place >= 0] = self.probabilities[place[place >= 0]]
        return soft


def soft_labels_path(root: Path, name: str) -> Path:
    """Where the soft labels of a name lie, or are to go."""
    inside = root / FOLDER / f"{name}.parquet"
    at_home = place_at_home(root, FOLDER) / inside.name
    if inside.exists() or (takes_files(root) and not at_home.exists()):
        return inside
    return at_home


def labelled_rows(train: pd.DataFrame, root: Path, config: DataConfig) -> Labels:
    """The rows of a trial, with the soft labels that its configuration names.

    Parameters
    ----------
    train : validated table of the train half
    root : the competition folder

    Raises
    ------
    DataError
        If there are no rows, or the soft labels are missing, are of other rows, or were taught by patients
        that this configuration holds out: their score would not be that of patients nobody has seen.
    """
    labels = make_labels(train, rows=config.rows, min_votes=config.min_votes)
    if config.soft_labels is None:
        return labels
    path = soft_labels_path(root, config.soft_labels)
    found = SoftLabels.read(path, root=root)
    where = f"data.soft_labels: {config.soft_labels}"
    if found.rows != config.rows:
        hint = f"Set data.rows: {found.rows}, or label with a bundle of data.rows: {config.rows}"
        raise DataError(f"they are of data.rows: {found.rows}, not {config.rows}", where=where, hint=hint)
    patients = np.unique(labels.patient_id)
    held_out = held_out_patients(patients, share=config.holdout, seed=config.fold_seed)
    if leaking := np.intersect1d(held_out, found.taught_by).tolist():
        raise DataError(
            f"{len(leaking)} patients that are held out here taught {found.teacher}, which gave the labels "
            f"(patient {leaking[0]} first)",
            where=where,
            hint="Set data.holdout, fold_seed and min_votes as the teacher's study has them, or label with a "
            "bundle that held these patients out",
        )
    soft = found.on(labels)
    if np.isnan(soft).all():
        raise DataError("none of them is of a row of this study", where=where, hint="Label this folder anew")
    return replace(labels, soft=soft)
