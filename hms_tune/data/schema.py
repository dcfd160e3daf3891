"""What the tables and signal files of a competition folder hold, and the check of a table against it.

Source: the data page of the Kaggle competition "HMS - Harmful Brain Activity Classification".
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hms_tune.data.defects import Defect
from hms_tune.data.labels import CLASSES, VOTE_COLUMNS, Split

SFREQ = 200
"""Sampling rate of every EEG, Hz."""

WINDOW_SECONDS = 50
WINDOW_SAMPLES = WINDOW_SECONDS * SFREQ
"""Samples of a labelled EEG window; no recording may be shorter."""

FRAME_SECONDS = 2
"""Step between spectrogram frames, seconds."""

WINDOW_FRAMES = 300
"""Frames of a labelled spectrogram window, 10 minutes."""

EEG_COLUMNS = (
    *("Fp1", "F3", "C3", "P3", "F7", "T3", "T5", "O1", "Fz", "Cz"),
    *("Pz", "Fp2", "F4", "C4", "P4", "F8", "T4", "T6", "O2", "EKG"),
)
"""Channels of an EEG file, µV, referential."""

REGIONS = ("LL", "RL", "LP", "RP")
"""Chains of a spectrogram file, in file order: left and right lateral, left and right parasagittal."""

FREQUENCIES = tuple(bin_ * SFREQ / 1024 for bin_ in range(3, 103))
"""Centre of each of the 100 spectrogram rows of a region, Hz: bins 3–102 of a 1024-point FFT at 200 Hz."""


def _column(region: str, hertz: float) -> str:
    # two decimals, halves up, no trailing zeros: 3.125 Hz is LL_3.13 and 4.1016 Hz is LL_4.1
    rounded = Decimal(hertz).quantize(Decimal("0.01"), ROUND_HALF_UP)
    return f"{region}_{float(rounded):g}"


SPECTROGRAM_COLUMNS = tuple(_column(region, hertz) for region in REGIONS for hertz in FREQUENCIES)
"""Power columns of a spectrogram file, µV²/Hz, float32; a ``time`` column in seconds stands before them."""

TIME_COLUMN = "time"


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table: its name, and what its cells must be."""

    name: str
    kind: Literal["integer", "number", "class"]


TRAIN_COLUMNS = (
    Column("eeg_id", "integer"),
    Column("eeg_sub_id", "integer"),
    Column("eeg_label_offset_seconds", "number"),
    Column("spectrogram_id", "integer"),
    Column("spectrogram_sub_id", "integer"),
    Column("spectrogram_label_offset_seconds", "number"),
    Column("label_id", "integer"),
    Column("patient_id", "integer"),
    Column("expert_consensus", "class"),
    *(Column(name, "integer") for name in VOTE_COLUMNS),
)
"""``train.csv``, in file order."""

TEST_COLUMNS = (
    Column("spectrogram_id", "integer"),
    Column("eeg_id", "integer"),
    Column("patient_id", "integer"),
)
"""``test.csv``, in file order."""

_KEYS: dict[Split, tuple[tuple[str, ...], ...]] = {
    "train": (("eeg_id", "eeg_sub_id"), ("label_id",)),
    "test": (("eeg_id",),),
}
_DOWNLOAD = "Restore the file from the competition's download."
_WANTED = {
    "integer": "a whole number",
    "number": "a finite number",
    "class": f"one of {', '.join(CLASSES)}",
}


def read_table(path: Path, split: Split) -> tuple[pd.DataFrame, list[Defect]]:
    """Read and check ``train.csv`` or ``test.csv``.

    Returns
    -------
    table : the columns of the schema alone, int64, float64 and str; empty when there are defects
    defects : every defect of the table, none when it can be used
    """
    columns = TRAIN_COLUMNS if split == "train" else TEST_COLUMNS
    try:
        raw = pd.read_csv(path, low_memory=False, keep_default_na=False, na_values=["", "NaN", "nan", "NA"])
    except pd.errors.EmptyDataError:
        return pd.DataFrame(), [Defect(str(path), None, "the file is empty", _DOWNLOAD)]
    except (pd.errors.ParserError, UnicodeDecodeError) as error:
        what = f"not a CSV table: {' '.join(str(error).split())}"
        return pd.DataFrame(), [Defect(str(path), None, what, _DOWNLOAD)]
    except OSError as error:
        what = f"cannot be read: {error.strerror}"
        return pd.DataFrame(), [Defect(str(path), None, what, "Check the path and its permissions.")]

    missing = [column.name for column in columns if column.name not in raw.columns]
    defects = [Defect(str(path), name, "the column is missing", _DOWNLOAD) for name in missing]
    if raw.empty:
        defects.append(Defect(str(path), None, "the table has no rows", _DOWNLOAD))
    checked: dict[str, pd.Series] = {}
    if not raw.empty:
        for column in columns:
            if column.name in raw.columns:
                checked[column.name], wrong = _check_cells(raw[column.name], column)
                defects += _first_line(path, column.name, raw[column.name], wrong, column.kind)
    if defects:
        return pd.DataFrame(), defects
    table = pd.DataFrame(checked)
    defects = _duplicates(path, table, split) + _patients(path, table)
    if split == "train":
        defects += _votes_and_offsets(path, table)
    return (pd.DataFrame() if defects else table), defects


def _check_cells(cells: pd.Series, column: Column) -> tuple[pd.Series, NDArray[np.bool_]]:
    """The column in its proper type, and a mask of the cells that cannot have it."""
    if column.kind == "class":
        return cells.astype(str), ~cells.isin(CLASSES).to_numpy()
    if pd.api.types.is_bool_dtype(cells):
        return cells, np.ones(len(cells), dtype=bool)
    numbers = pd.to_numeric(cells, errors="coerce")
    values = numbers.to_numpy(np.float64)
    wrong = ~np.isfinite(values)
    if column.kind == "number":
        return numbers.astype(np.float64), wrong
    wrong |= np.floor(values) != values
    wrong |= np.abs(values) >= 2.0**63
    return (numbers if wrong.any() else numbers.astype(np.int64)), wrong


def _first_line(
    path: Path, column: str, cells: pd.Series, wrong: NDArray[np.bool_], kind: str
) -> list[Defect]:
    if not wrong.any():
        return []
    first, count = int(wrong.argmax()), int(wrong.sum())
    cell = cells.iloc[first]
    found = "the cell is empty" if pd.isna(cell) else f"{str(cell)!r} is not {_WANTED[kind]}"
    what = f"line {first + 2}: {found}" + (f" ({count} such lines)" if count > 1 else "")
    return [Defect(str(path), column, what, f"Every cell must be {_WANTED[kind]}. {_DOWNLOAD}")]


def _duplicates(path: Path, table: pd.DataFrame, split: Split) -> list[Defect]:
    defects = []
    for key in _KEYS[split]:
        again = table.duplicated(list(key)).to_numpy()
        if again.any():
            line = int(again.argmax())
            value = ", ".join(f"{name} {table[name].iloc[line]}" for name in key)
            what = f"line {line + 2}: {value} stands in an earlier line too ({int(again.sum())} such lines)"
            defects.append(Defect(str(path), " + ".join(key), what, "Remove the repeated lines."))
    return defects


def _patients(path: Path, table: pd.DataFrame) -> list[Defect]:
    patients = table.groupby("eeg_id")["patient_id"].nunique()
    shared = patients[patients > 1]
    if shared.empty:
        return []
    what = f"eeg_id {shared.index[0]} belongs to {shared.iloc[0]} patients ({len(shared)} such EEGs)"
    mend = "An EEG has one patient; otherwise folds would share patients."
    return [Defect(str(path), "patient_id", what, mend)]


def _votes_and_offsets(path: Path, table: pd.DataFrame) -> list[Defect]:
    defects = []
    for name in (*VOTE_COLUMNS, "eeg_label_offset_seconds", "spectrogram_label_offset_seconds"):
        negative = (table[name] < 0).to_numpy()
        if negative.any():
            line = int(negative.argmax())
            what = f"line {line + 2}: {table[name].iloc[line]} is negative ({int(negative.sum())} such lines)"
            defects.append(Defect(str(path), name, what, _DOWNLOAD))
    votes = table[list(VOTE_COLUMNS)]
    silent = (votes.sum(axis=1) == 0).to_numpy() & (votes >= 0).all(axis=1).to_numpy()
    if silent.any():
        line = int(silent.argmax())
        eeg = f"eeg_id {table['eeg_id'].iloc[line]}, eeg_sub_id {table['eeg_sub_id'].iloc[line]}"
        what = f"line {line + 2}: {eeg} has zero votes ({int(silent.sum())} such lines)"
        defects.append(Defect(str(path), ", ".join(VOTE_COLUMNS), what, "Remove rows nobody voted on."))
    return defects
