"""What a signal file holds: its footer, its values, and every defect of either.

``data check`` and ``data prepare`` ask the same questions here; the first collects every answer, the second
stops at the first bad one.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from hms_tune.data.files.defects import Defect, DefectKind, errors
from hms_tune.data.files.encoding import Channels, Signal, encode_eeg, encode_power, second_means
from hms_tune.data.files.footers import RESTORE, footer_defects, is_usual
from hms_tune.data.files.signal_file import SignalFile
from hms_tune.data.files.silence import windows_of_nan
from hms_tune.data.files.synonyms import LOSSLESS, meant_by
from hms_tune.data.number_columns import refuse_costly
from hms_tune.data.resample import resampled, resampled_rows
from hms_tune.data.schema import SFREQ

_READ_ERRORS = (pa.ArrowException, OSError, ValueError)


def check_footer(file: SignalFile) -> tuple[int, list[Defect]]:
    """Number of rows at 200 Hz, and every defect that can be seen without decoding the signal."""
    try:
        refuse_costly(file.path)
        with pa.OSFile(os.fsencode(file.path)) as stream, _FlatParquetFile(stream) as parquet:
            rows = resampled_rows(parquet.metadata.num_rows, file.sfreq)
            return rows, footer_defects(file, parquet)
    except _READ_ERRORS as error:
        return 0, [_unreadable(file, error)]


def collect_footers() -> None:
    """Free the footers of files that were read.

    A footer that pyarrow has read refers to itself. One of 400 columns takes 750 kB and so few objects that
    hundreds would wait to be collected.
    """
    gc.collect(0)


def read_signal(file: SignalFile) -> tuple[Signal, list[Defect]]:
    """A file in the form of the store, with every defect of its footer and of its content.

    The file is opened once; see :mod:`hms_tune.data.files.encoding` for the form.
    """
    batch, defects = _contents(file)
    collect_footers()
    if batch is None:
        return nothing_of(file), defects
    signal, found = _power(file, batch) if file.kind == "spectrogram" else _eeg(file, batch)
    return signal, defects + found


def _contents(file: SignalFile) -> tuple[pa.RecordBatch | None, list[Defect]]:
    """The signal columns of a file whose footer is sound, else None; and the defects of the footer."""
    try:
        with _opened(file) as parquet:
            defects = footer_defects(file, parquet)
            return (None if errors(defects) else _batch(parquet, file)), defects
    except _READ_ERRORS as error:
        return None, [_unreadable(file, error)]


def _power(file: SignalFile, batch: pa.RecordBatch) -> tuple[Signal, list[Defect]]:
    values = _values(batch)
    defects = _value_defects(file, values)
    return nothing_of(file) if errors(defects) else encode_power(values), defects


def _eeg(file: SignalFile, batch: pa.RecordBatch) -> tuple[Signal, list[Defect]]:
    """Encoded from where pyarrow decoded it, channel by channel, without a copy of all of it."""
    if file.sfreq != SFREQ:
        values, defects = _resampled(file, _values(batch))
        return (nothing_of(file) if errors(defects) else encode_eeg(values)), defects
    channels = _channels(batch)
    means = second_means(channels)
    defects = [] if np.isfinite(means).all() else _value_defects(file, np.stack(list(channels)))
    return nothing_of(file) if errors(defects) else encode_eeg(channels, means), defects


def decode(file: SignalFile) -> tuple[NDArray[np.float32], list[Defect]]:
    """The signal as a file with a sound footer has it, and every value in it that cannot be.

    Returns
    -------
    values : float32 (n_columns, n_rows), C order, µV at 200 Hz or µV²/Hz, nulls as NaN; empty if the file is
        unreadable
    defects : errors of the content; none when the values can be used
    """
    try:
        with _opened(file) as parquet:
            values = _values(_batch(parquet, file))
    except _READ_ERRORS as error:
        return np.empty((len(file.columns), 0), np.float32), [_unreadable(file, error)]
    if file.sfreq != SFREQ:
        return _resampled(file, values)
    return values, _value_defects(file, values)


def _resampled(file: SignalFile, values: NDArray[np.float32]) -> tuple[NDArray[np.float32], list[Defect]]:
    """The values at 200 Hz, unless there are some that no filter can take; and every defect."""
    if defects := _values_that_are(np.isinf(values), DefectKind.VALUE_INFINITE, file):
        return values, defects
    values = resampled(values, file.sfreq)
    return values, _value_defects(file, values)


class _FlatParquetFile(pq.ParquetFile):  # type: ignore[misc] # pyarrow has no types
    """A file whose columns are flat: opening one does without a map of its nested columns.

    pyarrow builds that map column by column in Python, and uses it only where columns are named.
    """

    def _build_nested_paths(self) -> dict[str, list[int]]:
        return {}

    def map_columns(self) -> None:
        """Build the map after all, so that columns can be named."""
        self._nested_paths_by_prefix = super()._build_nested_paths()


@contextmanager
def _opened(file: SignalFile) -> Iterator[_FlatParquetFile]:
    refuse_costly(file.path)
    with pa.OSFile(os.fsencode(file.path)) as stream:  # as text, pyarrow takes UTF-8 alone
        content = stream.read_buffer()
    with _FlatParquetFile(pa.BufferReader(content), page_checksum_verification=True) as parquet:
        yield parquet


def _batch(parquet: _FlatParquetFile, file: SignalFile) -> pa.RecordBatch:
    """The signal columns, in order.

    Of a file like the competition's all columns are read: naming 400 of them takes longer than reading one
    that is not needed. Of another, those that are not needed may hold anything: text of many GB, for one.

    Raises
    ------
    ValueError
        If the columns are not as long as the footer says.
    """
    n_rows, usual = parquet.metadata.num_rows, is_usual(file, parquet)
    columns = None
    if not usual:
        parquet.map_columns()
        columns = _needed(parquet.schema_arrow.names, file)
    batches = list(parquet.iter_batches(n_rows, columns=columns, use_threads=False))
    if (found := sum(len(batch) for batch in batches)) != n_rows:
        raise ValueError(f"the footer tells of {n_rows} rows, the columns hold {found}")
    if len(batches) > 1:
        batches = pa.Table.from_batches(batches).combine_chunks().to_batches()
    batch = batches[0]
    if not usual:
        return _as_known(batch, file)
    return batch.remove_column(0) if file.kind == "spectrogram" else batch  # the time


def _needed(names: list[str], file: SignalFile) -> list[str]:
    """The columns of a file whose names mean signal columns, in its order."""
    meant = meant_by(file.kind, names)
    return [name for name in names if meant.get(name, name) in file.columns]


def _as_known(batch: pa.RecordBatch, file: SignalFile) -> pa.RecordBatch:
    """The signal columns under the competition's names; whole numbers as float32, a missing EKG as nulls."""
    meant = meant_by(file.kind, batch.schema.names)
    at = {meant.get(name, name): number for number, name in enumerate(batch.schema.names)}
    columns = []
    for name in file.columns:
        column = batch.column(at[name]) if name in at else pa.nulls(batch.num_rows, pa.float32())
        columns.append(column.cast(pa.float32()) if column.type in LOSSLESS else column)
    return pa.RecordBatch.from_arrays(columns, names=list(file.columns))


def _values(batch: pa.RecordBatch) -> NDArray[np.float32]:
    """The columns as float32 (n_columns, n_rows), C order, nulls as NaN."""
    tensor = batch.to_tensor(null_to_nan=True, row_major=False).to_numpy()
    return np.ascontiguousarray(tensor.T, dtype=np.float32)


def _channels(batch: pa.RecordBatch) -> Channels:
    """The columns where they lie, or a copy where they have nulls or are not float32.

    Not with ``to_numpy``, which imports pandas: that takes a new process as long as 100 files.
    """
    columns = batch.columns
    if any(column.null_count or column.type != pa.float32() for column in columns):
        return _values(batch)
    n_rows, size = batch.num_rows, np.dtype(np.float32).itemsize
    return [
        np.frombuffer(column.buffers()[1], np.float32, n_rows, column.offset * size) for column in columns
    ]


def _value_defects(file: SignalFile, values: NDArray[np.float32]) -> list[Defect]:
    lowest, highest = values.min(), values.max()  # NaN where there is any
    if np.isfinite(lowest) and np.isfinite(highest) and (file.kind == "eeg" or lowest >= 0):
        return []
    defects = _values_that_are(np.isinf(values), DefectKind.VALUE_INFINITE, file)
    if file.kind == "spectrogram":
        defects += _values_that_are(values < 0, DefectKind.POWER_NEGATIVE, file)
    elif file.split == "train":
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


def nothing_of(file: SignalFile, rows: int = 0) -> Signal:
    """So many rows of NaN, in place of a signal that cannot be used."""
    centres = len(file.columns) if file.kind == "eeg" else 0
    values = np.full((rows, len(file.columns)), np.nan, np.float16)
    return Signal(values, np.zeros(centres, np.float32), 0)


def _unreadable(file: SignalFile, error: Exception) -> Defect:
    if isinstance(error, FileNotFoundError):
        return file.defect(DefectKind.FILE_MISSING, "the file is missing", f"{RESTORE}.")
    if file.path.is_file() and file.path.stat().st_size == 0:
        return file.defect(DefectKind.FILE_EMPTY, "the file is empty, 0 bytes", f"{RESTORE}.")
    reason = "it is a folder" if file.path.is_dir() else " ".join(str(error).split())[:160]
    what, hint = f"not a readable parquet file: {reason}", f"{RESTORE}; it may be cut short."
    return file.defect(DefectKind.FILE_UNREADABLE, what, hint)
