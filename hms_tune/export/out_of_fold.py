"""The out-of-fold predictions of a bundle, as tables: as they came, and under changes of the signals."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from hms_tune.config.augmentation import TestTime
from hms_tune.data.files.decoding import refuse_costly
from hms_tune.data.schema import CLASSES
from hms_tune.errors import BundleError, first_line
from hms_tune.export.bundle import read_bundle_config
from hms_tune.machine.regular_file import open_regular
from hms_tune.training.events import OutOfFold

_PROBABILITIES = [f"{name.lower()}_probability" for name in CLASSES]
_TARGETS = [f"{name.lower()}_target" for name in CLASSES]


_IDS = ("row", "patient_id", "eeg_id")
_NUMBERS = (*_PROBABILITIES, *_TARGETS)

MOST_ROWS = 2_000_000
"""The competition's folds, repeated ten times, have 1,068,000."""

_AT_ONCE = 1 << 16
"""Rows that are decoded at once."""


@dataclass(frozen=True, slots=True)
class OutOfFoldTable:
    """One prediction for each row; those of repeated folds are averaged.

    Attributes
    ----------
    eeg_id, patient_id : int64 arrays, shape (n_rows,)
    probabilities, targets : float64 arrays, shape (n_rows, 6)
    """

    eeg_id: NDArray[np.int64]
    patient_id: NDArray[np.int64]
    probabilities: NDArray[np.float64]
    targets: NDArray[np.float64]


def table_name(test_time: Collection[TestTime] = ()) -> str:
    """The file of a bundle that holds predictions under these changes."""
    return "_".join(["oof", *sorted(test_time)]) + ".parquet"


def out_of_fold_table(out_of_fold: OutOfFold) -> pd.DataFrame:
    """Which row of whom, six probabilities, six targets and the fold, a line for each prediction."""
    columns: dict[str, object] = {
        "row": out_of_fold.row,
        "eeg_id": out_of_fold.eeg_id,
        "patient_id": out_of_fold.patient_id,
    }
    columns |= {name: out_of_fold.probabilities[:, place] for place, name in enumerate(_PROBABILITIES)}
    columns |= {name: out_of_fold.targets[:, place] for place, name in enumerate(_TARGETS)}
    columns["fold"] = out_of_fold.fold
    return pd.DataFrame(columns)


def read_out_of_fold(bundle: Path, test_time: Collection[TestTime] = ()) -> OutOfFoldTable:
    """Read a bundle's predictions.

    Raises
    ------
    BundleError
        If it has none, those of an earlier version, which name no patients, or a file that is damaged.
    """
    name, hint = table_name(test_time), "Export the trial again"
    if name not in read_bundle_config(bundle).files:
        what = f"with {' and '.join(test_time)}" if test_time else "at all"
        raise BundleError(f"it has no out-of-fold predictions {what}", where=bundle, hint=hint)
    try:
        table = _read(bundle / name)
    except (pa.ArrowException, OSError, ValueError, TypeError, LookupError, MemoryError) as error:
        raise BundleError(f"cannot be read ({first_line(error)})", where=bundle / name, hint=hint) from error
    return _one_for_each_row(table)


def _read(path: Path) -> pd.DataFrame:
    """The columns that are needed, of a file that may hold anything.

    Raises
    ------
    BundleError
        If one is missing, as in what an earlier version wrote.
    ValueError
        If a column is no column of numbers, or there are too many rows.
    pyarrow.ArrowException, OSError, TypeError, KeyError, MemoryError
        If it is damaged.
    """
    refuse_costly(path)
    with open_regular(path) as stream, pq.ParquetFile(stream) as parquet:
        rows, schema = parquet.metadata.num_rows, parquet.schema_arrow
        missing = sorted({*_IDS, *_NUMBERS} - set(schema.names))
        if missing:
            raise BundleError(
                f"it lacks {', '.join(missing)}: an earlier version wrote it",
                where=path,
                hint="Export the trial again",
            )
        if rows > MOST_ROWS:
            raise ValueError(f"it has {rows:,} rows, more than {MOST_ROWS:,}")
        kinds = dict.fromkeys(_IDS, pa.types.is_integer) | dict.fromkeys(_NUMBERS, pa.types.is_floating)
        wrong = next((name for name, fits in kinds.items() if not fits(schema.field(name).type)), None)
        if wrong is not None:
            raise ValueError(f"{wrong} holds {schema.field(wrong).type}")
        batches, found = [], 0
        for batch in parquet.iter_batches(_AT_ONCE, columns=list(kinds), use_threads=False):
            batches.append(batch)
            found += len(batch)
            if found > rows:
                break
    if found != rows:
        raise ValueError(f"its footer tells of {rows:,} rows, and its columns hold others")
    table = pa.Table.from_batches(batches, pa.schema([schema.field(name) for name in kinds]))
    if any(column.null_count for column in table.columns):
        raise ValueError("a cell is empty")
    if not all(np.isfinite(table[name]).all() for name in _NUMBERS):
        raise ValueError("a number is not finite")
    frame: pd.DataFrame = table.to_pandas()
    return frame


def averaged(out_of_fold: OutOfFold) -> OutOfFoldTable:
    """A trial's predictions, one for each row."""
    return _one_for_each_row(out_of_fold_table(out_of_fold))


def _one_for_each_row(table: pd.DataFrame) -> OutOfFoldTable:
    by_row = table.groupby("row", sort=True)
    first, mean = by_row.first(), by_row.mean(numeric_only=True)
    return OutOfFoldTable(
        first["eeg_id"].to_numpy(np.int64),
        first["patient_id"].to_numpy(np.int64),
        mean[_PROBABILITIES].to_numpy(np.float64),
        first[_TARGETS].to_numpy(np.float64),
    )
