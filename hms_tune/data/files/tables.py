"""``train.csv`` and ``test.csv``: read, and checked against the schema."""

from __future__ import annotations

import csv
import stat
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hms_tune.data.files.defects import Defect, DefectKind, errors
from hms_tune.data.files.vote_shares import as_numbers, weigh_shares
from hms_tune.data.schema import CLASSES, TABLE_COLUMNS, VOTE_COLUMNS, Column, Split

MOST_BYTES = 128 << 20
"""``train.csv`` of the competition has 9 MB. A cell takes up to thirty times its bytes in memory."""

MOST_ROWS = 1_000_000
"""``train.csv`` of the competition has 106,800."""

MOST_COLUMNS = 1000
"""The tables of the competition have 15."""

_SHOWN = 60
"""Characters of a cell that an error quotes."""

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


def read_table(
    path: Path, split: Split, *, votes_per_row: int | None = None
) -> tuple[pd.DataFrame, list[Defect]]:
    """Read and check ``train.csv`` or ``test.csv``.

    Parameters
    ----------
    votes_per_row : experts behind each row, if its votes are shares and no column counts them

    Returns
    -------
    table : the columns of the schema alone, int64, float64 and str, votes float64 where they are not whole;
        empty when there are errors
    defects : every defect of the table; without an error among them the table can be used
    """
    columns = TABLE_COLUMNS[split]
    raw, defects = read_csv(path, [column.name for column in columns])
    if errors(defects) and raw.empty:
        return pd.DataFrame(), defects
    if raw.empty:
        defects.append(_defect(path, DefectKind.TABLE_EMPTY, None, "the table has no rows"))
        return pd.DataFrame(), defects
    if split == "train":
        weighed = weigh_shares(path, raw, votes_per_row)
        raw = weighed.cells
        defects = [each for each in defects if each.column is None or each.column != weighed.column]
        defects += weighed.defects
        if weighed.fractional:
            votes = set(VOTE_COLUMNS)
            columns = tuple(replace(each, kind="number") if each.name in votes else each for each in columns)
    checked: dict[str, pd.Series] = {}
    for column in columns:
        if column.name in raw.columns:
            checked[column.name], wrong = _check_cells(raw[column.name], column)
            defects += _wrong_cells(path, column, raw[column.name], wrong)
    if errors(defects):
        return pd.DataFrame(), defects
    table = pd.DataFrame(checked)
    defects += _duplicates(path, table, split) + _patients(path, table)
    if split == "train":
        defects += _negative(path, table) + _silent(path, table) + _consensus(path, table)
    return (pd.DataFrame() if errors(defects) else table), defects


def read_csv(path: Path, wanted: list[str]) -> tuple[pd.DataFrame, list[Defect]]:
    """The cells of a table as they stand, and every defect of its header.

    Parameters
    ----------
    path : the table
    wanted : names of the columns it must hold, in order

    Returns
    -------
    cells : a frame with every column of the file; empty when it cannot be read
    defects : an unreadable file, and columns that are missing, repeated, extra or out of order
    """
    try:
        if (what := _too_large(path)) is not None:
            return pd.DataFrame(), [_defect(path, DefectKind.TABLE_UNREADABLE, None, what)]
        with path.open(encoding="utf-8-sig", newline="") as stream:
            header = next(csv.reader(stream), [])
        if (unusable := _unusable_header(path, header)) is not None:
            return pd.DataFrame(), [unusable]
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # lines longer than the header
            cells = pd.read_csv(
                path,
                low_memory=False,
                keep_default_na=False,
                na_values=["", "NaN", "nan", "NA"],
                index_col=False,
                nrows=MOST_ROWS + 1,
            )
        if len(cells) > MOST_ROWS:
            what = f"the table has more than {MOST_ROWS:,} rows"
            return pd.DataFrame(), [_defect(path, DefectKind.TABLE_UNREADABLE, None, what)]
    except (pd.errors.ParserError, pd.errors.ParserWarning, UnicodeDecodeError, csv.Error) as error:
        what = f"not a CSV table: {' '.join(str(error).split())}"
        return pd.DataFrame(), [_defect(path, DefectKind.TABLE_UNREADABLE, None, what)]
    except OSError as error:
        what, hint = f"cannot be read: {error.strerror}", "Check the path and its permissions."
        return pd.DataFrame(), [Defect(DefectKind.TABLE_UNREADABLE, str(path), None, what, hint)]
    defects = _header_defects(path, header, wanted)
    unreadable = any(defect.kind == DefectKind.TABLE_UNREADABLE for defect in defects)
    return (pd.DataFrame() if unreadable else cells), defects


def _unusable_header(path: Path, header: list[str]) -> Defect | None:
    if not header:
        return _defect(path, DefectKind.TABLE_EMPTY, None, "the file is empty")
    if len(header) > MOST_COLUMNS:
        what = f"the header names {len(header):,} columns, more than {MOST_COLUMNS}"
        return _defect(path, DefectKind.TABLE_UNREADABLE, None, what)
    repeated = sorted({name for name in header if header.count(name) > 1}, key=header.index)
    if repeated:
        return _defect(path, DefectKind.COLUMN_REPEATED, repeated[0], "the column stands twice")
    return None


def _too_large(path: Path) -> str | None:
    """Why a table would cost too much to open."""
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        return "it is no regular file"
    if found.st_size > MOST_BYTES:
        return f"the table has {found.st_size:,} bytes, more than {MOST_BYTES:,}"
    return None


def _header_defects(path: Path, header: list[str], wanted: list[str]) -> list[Defect]:
    for separator, name in ((";", "semicolons"), ("\t", "tabs"), ("|", "bars")):
        if len(header) == 1 and header[0].count(separator) >= len(wanted) - 1:
            what = f"not a CSV table: cells are separated by {name}, not commas"
            return [_defect(path, DefectKind.TABLE_UNREADABLE, None, what)]
    missing = [name for name in wanted if name not in header]
    defects = [_defect(path, DefectKind.COLUMN_MISSING, name, "the column is missing") for name in missing]
    for name in header:
        if name not in wanted:
            what = "the column is not one of the competition's" if name else "a column has no name"
            hint = "It is ignored; remove it, unless it stands for one that is missing."
            defects.append(Defect(DefectKind.COLUMN_EXTRA, str(path), name or None, what, hint))
    there = [name for name in wanted if name in header]
    displaced = [name for name in header if name in wanted]
    if there != displaced:
        name, instead = next(pair for pair in zip(displaced, there, strict=True) if pair[0] != pair[1])
        what = f"the column stands where {instead} should"
        hint = "Columns are found by name; make sure that each holds what its name says."
        defects.append(Defect(DefectKind.COLUMN_ORDER, str(path), name, what, hint))
    return defects


def _check_cells(cells: pd.Series, column: Column) -> tuple[pd.Series, NDArray[np.bool_]]:
    """The column in its proper type, and a mask of the cells that cannot have it."""
    match column.kind:
        case "class":
            return cells.astype(str), ~cells.isin(CLASSES).to_numpy()
        case "number" | "integer" as kind:
            return _check_numbers(cells, kind)


def _check_numbers(
    cells: pd.Series, kind: Literal["number", "integer"]
) -> tuple[pd.Series, NDArray[np.bool_]]:
    if pd.api.types.is_bool_dtype(cells):
        return cells, np.ones(len(cells), dtype=bool)
    numbers = as_numbers(cells)
    values = numbers.to_numpy(np.float64)
    wrong = ~np.isfinite(values)
    if kind == "number":
        return numbers.astype(np.float64), wrong
    wrong |= np.floor(values) != values
    # one cell written as a float (1E3, 1000.0) makes floats of all, which hold whole numbers up to 2⁵³
    wrong |= np.abs(values) >= (2.0**63 if pd.api.types.is_integer_dtype(numbers) else 2.0**53)
    return (numbers if wrong.any() else numbers.astype(np.int64)), wrong


def _wrong_cells(path: Path, column: Column, cells: pd.Series, wrong: NDArray[np.bool_]) -> list[Defect]:
    if not wrong.any():
        return []
    cell = cells.iloc[int(wrong.argmax())]
    wanted = _WANTED[column.kind]
    found = "the cell is empty" if pd.isna(cell) else f"{_short(cell)!r} is not {wanted}"
    hint = f"Every cell must be {wanted}. {_DOWNLOAD}"
    return [_in_lines(path, DefectKind.CELL_INVALID, column.name, found, wrong, hint)]


def _short(cell: object) -> str:
    text = str(cell)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _duplicates(path: Path, table: pd.DataFrame, split: Split) -> list[Defect]:
    defects = []
    for key in _KEYS[split]:
        again = table.duplicated(list(key)).to_numpy()
        if again.any():
            line = int(again.argmax())
            value = ", ".join(f"{name} {table[name].iloc[line]}" for name in key)
            what, hint = f"{value} stands in an earlier line too", "Remove the repeated lines."
            defects.append(_in_lines(path, DefectKind.KEY_REPEATED, " + ".join(key), what, again, hint))
    return defects


def _patients(path: Path, table: pd.DataFrame) -> list[Defect]:
    """EEGs and spectrograms of more than one patient: with them folds would share patients."""
    defects = []
    for kind, key, name in (
        (DefectKind.EEG_OF_SEVERAL_PATIENTS, "eeg_id", "EEG"),
        (DefectKind.SPECTROGRAM_OF_SEVERAL_PATIENTS, "spectrogram_id", "spectrogram"),
    ):
        patients = table.groupby(key)["patient_id"].nunique()
        shared = patients[patients > 1]
        if not shared.empty:
            what = f"{key} {shared.index[0]} belongs to {shared.iloc[0]} patients"
            what += f" ({len(shared)} such {name}s)" if len(shared) > 1 else ""
            hint = f"Each {name} has one patient; otherwise folds would share patients."
            row = int((table[key] == shared.index[0]).to_numpy().argmax()) + 2
            defects.append(Defect(kind, str(path), "patient_id", what, hint, row))
    return defects


def _negative(path: Path, table: pd.DataFrame) -> list[Defect]:
    defects = []
    for name in (*VOTE_COLUMNS, "eeg_label_offset_seconds", "spectrogram_label_offset_seconds"):
        negative = (table[name] < 0).to_numpy()
        if negative.any():
            kind = DefectKind.VOTE_NEGATIVE if name in VOTE_COLUMNS else DefectKind.OFFSET_NEGATIVE
            what = f"{table[name].iloc[int(negative.argmax())]} is negative"
            defects.append(_in_lines(path, kind, name, what, negative, _DOWNLOAD))
    return defects


def _silent(path: Path, table: pd.DataFrame) -> list[Defect]:
    votes = table[list(VOTE_COLUMNS)]
    silent = (votes.sum(axis=1) == 0).to_numpy() & (votes >= 0).all(axis=1).to_numpy()
    if not silent.any():
        return []
    line = table.iloc[int(silent.argmax())]
    what = f"eeg_id {line['eeg_id']}, eeg_sub_id {line['eeg_sub_id']} has zero votes"
    column, hint = ", ".join(VOTE_COLUMNS), "Remove rows nobody voted on."
    return [_in_lines(path, DefectKind.VOTES_ZERO, column, what, silent, hint)]


def _consensus(path: Path, table: pd.DataFrame) -> list[Defect]:
    votes = table[list(VOTE_COLUMNS)].to_numpy()
    named = table["expert_consensus"].map({name: at for at, name in enumerate(CLASSES)}).to_numpy(np.int64)
    wrong = (votes[np.arange(len(votes)), named] < votes.max(axis=1)) & (votes >= 0).all(axis=1)
    if not wrong.any():
        return []
    line = int(wrong.argmax())
    said, most = int(named[line]), int(votes[line].argmax())
    what = f"{CLASSES[said]} has {votes[line, said]:g} votes, {CLASSES[most]} has {votes[line, most]:g}"
    hint = "Correct one of the two; training reads the votes alone."
    return [_in_lines(path, DefectKind.CONSENSUS_DISAGREES, "expert_consensus", what, wrong, hint)]


def _in_lines(
    path: Path, kind: DefectKind, column: str, found: str, wrong: NDArray[np.bool_], hint: str
) -> Defect:
    """A defect of some lines, told of the first of them."""
    line, count = int(wrong.argmax()) + 2, int(wrong.sum())
    what = f"line {line}: {found}" + (f" ({count} such lines)" if count > 1 else "")
    return Defect(kind, str(path), column, what, hint, line)


def _defect(path: Path, kind: DefectKind, column: str | None, what: str) -> Defect:
    return Defect(kind, str(path), column, what, _DOWNLOAD)
