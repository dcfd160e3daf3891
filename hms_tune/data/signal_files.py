"""The parquet files of a competition folder: which there are, whether they are sound, what they hold.

``data check`` and ``data prepare`` ask the same questions here; the first collects every answer, the second
stops at the first bad one.
"""

from __future__ import annotations

import os

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from hms_tune.data.defects import Defect, DefectKind, errors
from hms_tune.data.encoding import Signal, encode_eeg, encode_power
from hms_tune.data.footers import RESTORE, footer_defects, is_usual
from hms_tune.data.labels import Split
from hms_tune.data.layout import KINDS, Competition, Kind, SignalFile
from hms_tune.data.silence import windows_of_nan

_READ_ERRORS = (pa.ArrowException, OSError, ValueError)


def list_signal_files(competition: Competition, split: Split, table: pd.DataFrame) -> list[SignalFile]:
    """Every file the table names: EEGs, then spectrograms where there are any, each kind by identifier."""
    kinds: list[Kind] = ["eeg"]
    if competition.has_spectrograms(split):
        kinds.append("spectrogram")
    files = []
    for kind in kinds:
        identifiers = table[f"{kind}_id"].to_numpy(np.int64)
        column = f"{kind}_label_offset_seconds"
        offsets = table[column].to_numpy(np.float64) if column in table else np.zeros(len(table))
        unique, start = np.unique(identifiers[order := np.lexsort((offsets, identifiers))], return_index=True)
        groups = np.split(offsets[order], start[1:])
        files += [
            SignalFile(kind, split, int(id_), competition.path(split, kind, int(id_)), tuple(group.tolist()))
            for id_, group in zip(unique, groups, strict=True)
        ]
    return files


def missing_files(competition: Competition, files: list[SignalFile]) -> list[Defect]:
    """A defect for every identifier without a file."""
    there = {
        folder: {entry.name for entry in os.scandir(folder)}
        for folder in {file.path.parent for file in files}
    }
    return [
        file.defect(
            DefectKind.FILE_MISSING,
            f"the file is missing, though {competition.table_path(file.split).name} names "
            f"{file.kind}_id {file.identifier}",
            f"{RESTORE}, or remove the rows of that {file.kind}_id.",
        )
        for file in files
        if file.path.name not in there[file.path.parent]
    ]


def unexpected_files(competition: Competition, split: Split, files: list[SignalFile]) -> list[Defect]:
    """A defect for everything in the signal folders of a split that its table does not name."""
    named = {file.path for file in files}
    table = competition.table_path(split).name
    defects = []
    for kind in KINDS:
        folder = competition.folder(split, kind)
        if not folder.is_dir():
            continue
        for entry in sorted(folder.iterdir()):
            if entry not in named:
                what = f"{table} names no such {kind}_id"
                mend = "It is ignored; remove it, or restore the table if rows are missing there."
                defects.append(Defect(DefectKind.FILE_UNEXPECTED, str(entry), None, what, mend))
    return defects


def check_footer(file: SignalFile) -> tuple[int, list[Defect]]:
    """Number of rows, and every defect that can be seen without decoding the signal."""
    try:
        with pq.ParquetFile(file.path) as parquet:
            rows, schema = parquet.metadata.num_rows, parquet.schema_arrow
    except _READ_ERRORS as error:
        return 0, [_unreadable(file, error)]
    return rows, footer_defects(file, rows, schema)


def read_signal(file: SignalFile) -> tuple[Signal, list[Defect]]:
    """A file in the form of the store, with every defect of its footer and of its content.

    The file is opened once; see :mod:`hms_tune.data.encoding` for the form.
    """
    try:
        table = _read_whole(file)
    except _READ_ERRORS as error:
        return _nothing(file), [_unreadable(file, error)]
    defects = footer_defects(file, table.num_rows, table.schema)
    if errors(defects):
        return _nothing(file), defects
    values = _values(table, file)
    defects += _value_defects(file, values)
    if errors(defects):
        return _nothing(file), defects
    return (encode_power(values) if file.kind == "spectrogram" else encode_eeg(values)), defects


def decode(file: SignalFile) -> tuple[NDArray[np.float32], list[Defect]]:
    """The signal as a file with a sound footer has it, and every value in it that cannot be.

    Returns
    -------
    values : float32 (n_columns, n_rows), C order, µV or µV²/Hz, nulls as NaN; empty if the file is unreadable
    defects : errors of the content; none when the values can be used
    """
    try:
        values = _values(_read_whole(file), file)
    except _READ_ERRORS as error:
        return np.empty((len(file.columns), 0), np.float32), [_unreadable(file, error)]
    return values, _value_defects(file, values)


def _read_whole(file: SignalFile) -> pa.Table:
    """All columns at once: naming 400 of them takes longer than reading one that is not needed."""
    with pa.OSFile(str(file.path)) as stream:
        content = stream.read_buffer()
    with pq.ParquetFile(pa.BufferReader(content), page_checksum_verification=True) as parquet:
        return parquet.read(use_threads=False)


def _values(table: pa.Table, file: SignalFile) -> NDArray[np.float32]:
    """The signal columns as float32 (n_columns, n_rows), nulls as NaN."""
    if not is_usual(file, table.schema):
        table = table.select(file.columns)
    elif file.kind == "spectrogram":
        table = table.remove_column(0)  # the time; much faster than naming the 400 others
    batches = table.to_batches()
    batch = batches[0] if len(batches) == 1 else table.combine_chunks().to_batches()[0]
    tensor = batch.to_tensor(null_to_nan=True, row_major=False).to_numpy()
    return np.ascontiguousarray(tensor.T, dtype=np.float32)


def _value_defects(file: SignalFile, values: NDArray[np.float32]) -> list[Defect]:
    defects = []
    if not np.isfinite(values.sum()):  # so it is with NaN, too
        defects += _values_that_are(np.isinf(values), DefectKind.VALUE_INFINITE, file)
    if file.kind == "spectrogram" and np.fmin.reduce(values, axis=None) < 0:
        defects += _values_that_are(values < 0, DefectKind.POWER_NEGATIVE, file)
    if file.kind == "eeg" and file.split == "train":
        defects += windows_of_nan(file, values)
    return defects


def _values_that_are(wrong: NDArray[np.bool_], kind: DefectKind, file: SignalFile) -> list[Defect]:
    columns = np.flatnonzero(wrong.any(axis=1))
    if not columns.size:
        return []
    row = int(wrong[columns[0]].argmax())
    what = f"row {row} is {'infinite' if kind == DefectKind.VALUE_INFINITE else 'a negative power'}"
    what += f" (so in {columns.size} columns)" if columns.size > 1 else ""
    return [file.defect(kind, what, f"{RESTORE}, or write NaN there.", file.columns[columns[0]], row)]


def _nothing(file: SignalFile) -> Signal:
    return Signal(np.empty((0, len(file.columns)), np.float16), np.empty(0, np.float32), 0)


def _unreadable(file: SignalFile, error: Exception) -> Defect:
    if isinstance(error, FileNotFoundError):
        return file.defect(DefectKind.FILE_MISSING, "the file is missing", f"{RESTORE}.")
    if file.path.is_file() and file.path.stat().st_size == 0:
        return file.defect(DefectKind.FILE_EMPTY, "the file is empty, 0 bytes", f"{RESTORE}.")
    reason = "it is a folder" if file.path.is_dir() else " ".join(str(error).split())[:160]
    what, mend = f"not a readable parquet file: {reason}", f"{RESTORE}; it may be cut short."
    return file.defect(DefectKind.FILE_UNREADABLE, what, mend)
