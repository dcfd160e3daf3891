"""The parquet files of a competition folder: which there are, whether they are sound, what they hold.

``data check`` and ``data prepare`` ask the same questions here; the first collects every answer, the second
stops at the first bad one.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from hms_tune.data.defects import Defect, DefectKind
from hms_tune.data.footers import RESTORE, footer_defects
from hms_tune.data.labels import Split
from hms_tune.data.layout import KINDS, Competition, Kind
from hms_tune.data.schema import EEG_COLUMNS, SPECTROGRAM_COLUMNS

POWER_FLOOR = 1e-6
"""Spectrogram power below this, µV²/Hz, is stored as this; recipes clip at e⁻⁴ or above."""

FLOAT16_MAX = float(np.finfo(np.float16).max)
"""Centred EEG beyond ± this many µV is stored as this."""

_READ_ERRORS = (pa.ArrowException, OSError, ValueError)


@dataclass(frozen=True, slots=True)
class SignalFile:
    """One parquet file that a table names.

    Parameters
    ----------
    kind : ``eeg`` or ``spectrogram``
    split : which half of the competition
    identifier : ``eeg_id`` or ``spectrogram_id``
    path : where it lies
    offsets : starts of the labelled windows in it, seconds, ascending
    """

    kind: Kind
    split: Split
    identifier: int
    path: Path
    offsets: tuple[float, ...]

    @property
    def columns(self) -> tuple[str, ...]:
        """The signal columns of this kind of file, in order."""
        return EEG_COLUMNS if self.kind == "eeg" else SPECTROGRAM_COLUMNS

    def defect(
        self, kind: DefectKind, what: str, mend: str, column: str | None = None, row: int | None = None
    ) -> Defect:
        """A defect of this file."""
        return Defect(kind, str(self.path), column, what, mend, row)


@dataclass(frozen=True, slots=True)
class Signal:
    """What a file holds, in the form of the store.

    Parameters
    ----------
    values : float16 (n_rows, n_columns), C order; EEG in µV around ``centre``, or natural logarithm of
        spectrogram power in µV²/Hz; NaN where the file has NaN
    centre : float32 (n_columns,), the median taken off each EEG channel, µV; empty for a spectrogram
    clipped : number of EEG samples beyond the float16 range
    """

    values: NDArray[np.float16]
    centre: NDArray[np.float32]
    clipped: int

    @property
    def buffer(self) -> memoryview:
        """The bytes of ``values``."""
        return self.values.data.cast("B")


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
    """Decode a file whose footer is sound, and find the defects of its content.

    The EEG's median is taken off each channel (referential EEG carries offsets of several mV) so that float16
    keeps a relative error of at most 2⁻¹¹ of the centred value. Spectrogram power becomes its natural
    logarithm, kept within 2⁻⁸ (0.4 % of the power) for powers up to e¹⁶.
    """
    values, defects = decode(file)
    if defects:
        return _nothing(file), defects
    return (_centred(values) if file.kind == "eeg" else _log_power(values)), []


def decode(file: SignalFile) -> tuple[NDArray[np.float32], list[Defect]]:
    """The signal as the file has it, and every value in it that cannot be.

    Returns
    -------
    values : float32 (n_columns, n_rows), C order, µV or µV²/Hz, nulls as NaN; empty if the file is unreadable
    defects : errors of the content; none when the values can be used
    """
    try:
        with pq.ParquetFile(file.path, pre_buffer=True, page_checksum_verification=True) as parquet:
            table = parquet.read(columns=list(file.columns), use_threads=False).select(file.columns)
    except _READ_ERRORS as error:
        return np.empty((len(file.columns), 0), np.float32), [_unreadable(file, error)]
    values = _matrix(table)
    defects = _values_that_are(np.isinf(values), DefectKind.VALUE_INFINITE, file)
    if file.kind == "spectrogram":
        defects += _values_that_are(values < 0, DefectKind.POWER_NEGATIVE, file)
    return values, defects


def _matrix(table: pa.Table) -> NDArray[np.float32]:
    """The table as float32 (n_columns, n_rows), nulls as NaN."""
    batch = table.combine_chunks().to_batches()[0]
    tensor = batch.to_tensor(null_to_nan=True, row_major=False).to_numpy()
    return np.array(tensor.T, dtype=np.float32, order="C")


def _centred(values: NDArray[np.float32]) -> Signal:
    centre = _medians(values)
    values -= centre[:, np.newaxis]
    clipped = int(np.count_nonzero(np.abs(values) > FLOAT16_MAX))
    np.clip(values, -FLOAT16_MAX, FLOAT16_MAX, out=values)
    return Signal(np.ascontiguousarray(values.astype(np.float16).T), centre, clipped)


def _medians(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Median of each channel's finite samples, 0 where it has none."""
    absent = np.isnan(values)
    gap = absent.all(axis=0)  # gaps span all channels in the competition's files
    if gap.any():
        values, absent = values[:, ~gap], absent[:, ~gap]
    if values.shape[1] and not absent.any():
        return np.median(values, axis=1).astype(np.float32)
    finite = (channel[~missing] for channel, missing in zip(values, absent, strict=True))
    return np.array([np.median(part) if part.size else 0.0 for part in finite], dtype=np.float32)


def _log_power(values: NDArray[np.float32]) -> Signal:
    np.maximum(values, np.float32(POWER_FLOOR), out=values)  # NaN stays NaN
    np.log(values, out=values)
    return Signal(np.ascontiguousarray(values.astype(np.float16).T), np.empty(0, np.float32), 0)


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
