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

from hms_tune.data.defects import Defect
from hms_tune.data.labels import Split
from hms_tune.data.layout import Competition, Kind
from hms_tune.data.schema import (
    EEG_COLUMNS,
    FRAME_SECONDS,
    SFREQ,
    SPECTROGRAM_COLUMNS,
    TIME_COLUMN,
    WINDOW_SAMPLES,
    WINDOW_SECONDS,
)

POWER_FLOOR = 1e-6
"""Spectrogram power below this, µV²/Hz, is stored as this; recipes clip at e⁻⁴ or above."""

FLOAT16_MAX = float(np.finfo(np.float16).max)
"""Centred EEG beyond ± this many µV is stored as this."""

_RESTORE = "Restore the file from its source"
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

    def defect(self, what: str, mend: str, column: str | None = None) -> Defect:
        """A defect of this file."""
        return Defect(str(self.path), column, what, mend)


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
            f"the file is missing, though {competition.table_path(file.split).name} names "
            f"{file.kind}_id {file.identifier}",
            f"{_RESTORE}, or remove the rows of that {file.kind}_id.",
        )
        for file in files
        if file.path.name not in there[file.path.parent]
    ]


def check_footer(file: SignalFile) -> tuple[int, list[Defect]]:
    """Number of rows, and every defect that can be seen without decoding the signal."""
    try:
        with pq.ParquetFile(file.path) as parquet:
            rows, schema = parquet.metadata.num_rows, parquet.schema_arrow
    except _READ_ERRORS as error:
        return 0, [_unreadable(file, error)]
    defects = _column_defects(file, schema)
    if rows == 0:
        defects.append(file.defect("the file has no rows", f"{_RESTORE}."))
    elif file.kind == "eeg":
        defects += _eeg_length_defects(file, rows)
    elif (last := file.offsets[-1]) // FRAME_SECONDS >= rows:
        what = f"a label starts at {last:g} s, but the spectrogram ends at {rows * FRAME_SECONDS} s"
        defects.append(file.defect(what, f"{_RESTORE}, or correct the offset.", TIME_COLUMN))
    return rows, defects


def _column_defects(file: SignalFile, schema: pa.Schema) -> list[Defect]:
    names = set(schema.names)
    wanted = file.columns if file.kind == "eeg" else (TIME_COLUMN, *file.columns)
    missing = [name for name in wanted if name not in names]
    defects = []
    if missing:
        what = "the column is missing" + (f", and {len(missing) - 1} more" if len(missing) > 1 else "")
        defects.append(file.defect(what, f"{_RESTORE}; it must hold {wanted[0]} … {wanted[-1]}.", missing[0]))
    if len(names) < len(schema.names):
        again = next(name for name in schema.names if schema.names.count(name) > 1)
        defects.append(file.defect("the column stands twice", f"{_RESTORE}.", again))
        return defects
    wrong = [n for n in file.columns if n in names and not pa.types.is_floating(schema.field(n).type)]
    if wrong:
        what = f"the type is {schema.field(wrong[0]).type}, not float32"
        what += f" (so in {len(wrong)} columns)" if len(wrong) > 1 else ""
        defects.append(file.defect(what, f"{_RESTORE}, or convert the column to float32.", wrong[0]))
    return defects


def _eeg_length_defects(file: SignalFile, rows: int) -> list[Defect]:
    if rows < WINDOW_SAMPLES:
        what = (
            f"the EEG has {rows} rows ({rows / SFREQ:g} s), fewer than {WINDOW_SAMPLES} ({WINDOW_SECONDS} s)"
        )
        return [file.defect(what, f"{_RESTORE}, or remove the rows of eeg_id {file.identifier}.")]
    beyond = [offset for offset in file.offsets if window_start(offset) + WINDOW_SAMPLES > rows]
    if not beyond:
        return []
    what = (
        f"a labelled window ends at {beyond[-1] + WINDOW_SECONDS:g} s, but the EEG ends at {rows / SFREQ:g} s"
    )
    what += f" ({len(beyond)} such windows)" if len(beyond) > 1 else ""
    mend = f"{_RESTORE}, or correct eeg_label_offset_seconds of eeg_id {file.identifier}."
    return [file.defect(what, mend)]


def window_start(offset_seconds: float) -> int:
    """First row of the EEG window labelled at an offset, 200 rows to the second."""
    return round(offset_seconds * SFREQ)


def read_signal(file: SignalFile) -> tuple[Signal, list[Defect]]:
    """Decode a file whose footer is sound, and find the defects of its content.

    The EEG's median is taken off each channel (referential EEG carries offsets of several mV) so that float16
    keeps a relative error of at most 2⁻¹¹ of the centred value. Spectrogram power becomes its natural
    logarithm, kept within 2⁻⁸ (0.4 % of the power) for powers up to e¹⁶.
    """
    try:
        with pq.ParquetFile(file.path, pre_buffer=True) as parquet:
            table = parquet.read(columns=list(file.columns), use_threads=False).select(file.columns)
    except _READ_ERRORS as error:
        return _nothing(file), [_unreadable(file, error)]
    values = _matrix(table)
    if file.kind == "eeg":
        defects = _eeg_content_defects(file, values)
        return (_nothing(file) if defects else _centred(values)), defects
    defects = _infinite(file, values)
    return (_nothing(file) if defects else _log_power(values)), defects


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


def _eeg_content_defects(file: SignalFile, values: NDArray[np.float32]) -> list[Defect]:
    defects = _infinite(file, values)
    silent_rows = np.isnan(values).all(axis=0)
    if not silent_rows.any():
        return defects
    silent_before = np.concatenate(([0], np.cumsum(silent_rows)))
    starts = np.array([window_start(offset) for offset in file.offsets])
    silent = silent_before[starts + WINDOW_SAMPLES] - silent_before[starts] == WINDOW_SAMPLES
    if silent.any():
        offset, count = file.offsets[int(silent.argmax())], int(silent.sum())
        what = f"the window from {offset:g} s to {offset + WINDOW_SECONDS:g} s holds nothing but NaN"
        what += f" ({count} such windows)" if count > 1 else ""
        mend = f"Remove the rows of eeg_id {file.identifier} whose window has no signal."
        defects.append(file.defect(what, mend))
    return defects


def _infinite(file: SignalFile, values: NDArray[np.float32]) -> list[Defect]:
    columns = np.flatnonzero(np.isinf(values).any(axis=1))
    if not columns.size:
        return []
    row = int(np.isinf(values[columns[0]]).argmax())
    what = f"row {row} is infinite" + (f" (so in {columns.size} columns)" if columns.size > 1 else "")
    return [file.defect(what, f"{_RESTORE}, or write NaN there.", file.columns[columns[0]])]


def _nothing(file: SignalFile) -> Signal:
    return Signal(np.empty((0, len(file.columns)), np.float16), np.empty(0, np.float32), 0)


def _unreadable(file: SignalFile, error: Exception) -> Defect:
    reason = " ".join(str(error).split())
    if isinstance(error, FileNotFoundError):
        return file.defect("the file is missing", f"{_RESTORE}.")
    if file.path.is_file() and file.path.stat().st_size == 0:
        reason = "the file is empty, 0 bytes"
    return file.defect(f"not a readable parquet file: {reason[:160]}", f"{_RESTORE}; it may be cut short.")
