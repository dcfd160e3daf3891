"""Columns of numbers of a parquet file that somebody may have sent."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hms_tune.data.files.decoding import refuse_costly
from hms_tune.machine.regular_file import open_regular

MOST_ROWS = 2_000_000
"""The competition's folds, repeated ten times, have 1,068,000."""

_AT_ONCE = 1 << 16
"""Rows that are decoded at once."""


class MissingColumnsError(ValueError):
    """A column that is needed is not there."""


def read_numbers(path: Path, *, whole: Collection[str], real: Collection[str] = ()) -> pa.Table:
    """Read some columns of a file that may hold anything.

    Parameters
    ----------
    whole, real : names of the columns that hold integers, and of those that hold finite floats

    Raises
    ------
    ValueError
        If a column is no column of numbers, a cell is empty or not finite, or there are too many rows.
    MissingColumnsError
        If a column is missing.
    pyarrow.ArrowException, OSError, TypeError, LookupError, MemoryError
        If it is damaged.
    """
    refuse_costly(path)
    with open_regular(path) as stream, pq.ParquetFile(stream) as parquet:
        rows, schema = parquet.metadata.num_rows, parquet.schema_arrow
        missing = sorted({*whole, *real} - set(schema.names))
        if missing:
            raise MissingColumnsError(f"it lacks {', '.join(missing)}")
        if rows > MOST_ROWS:
            raise ValueError(f"it has {rows:,} rows, more than {MOST_ROWS:,}")
        kinds = dict.fromkeys(whole, pa.types.is_integer) | dict.fromkeys(real, pa.types.is_floating)
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
    asked = pa.schema([schema.field(name) for name in kinds], metadata=schema.metadata)
    table = pa.Table.from_batches(
        [batch.replace_schema_metadata(schema.metadata) for batch in batches], asked
    )
    if any(column.null_count for column in table.columns):
        raise ValueError("a cell is empty")
    if not all(np.isfinite(table[name]).all() for name in real):
        raise ValueError("a number is not finite")
    return table
