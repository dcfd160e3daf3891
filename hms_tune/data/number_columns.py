"""Parquet files that somebody may have sent: which are too costly to open, and columns of numbers."""

from __future__ import annotations

import stat
from collections.abc import Collection
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hms_tune.machine.regular_file import open_regular

MOST_ROWS = 2_000_000
"""The competition's folds, repeated ten times, have 1,068,000."""

_AT_ONCE = 1 << 16
"""Rows that are decoded at once."""


MOST_FOOTER_BYTES = 4 << 20
"""Those of the competition take less than 200 kB; one of a million columns takes minutes to read."""

_TAIL_BYTES = 8
"""At the end of a parquet file: the footer's length, and four letters."""

_LAST_LETTERS = b"PAR1"
_POINTER = b"version https://git-lfs"


class MissingColumnsError(ValueError):
    """A column that is needed is not there."""


def refuse_costly(path: Path) -> None:
    """Refuse, before it is opened, what would wait for ever or take minutes to open.

    Raises
    ------
    ValueError
        Saying why.
    """
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise ValueError("it is no regular file")
    with path.open("rb") as stream:
        begins = stream.read(len(_POINTER))
        stream.seek(max(0, found.st_size - _TAIL_BYTES))
        tail = stream.read(_TAIL_BYTES)
    if begins == _POINTER:
        raise ValueError("it is a pointer of Git LFS, for which `git lfs pull` gets the file")
    footer = int.from_bytes(tail[:4], "little")
    if tail[4:] == _LAST_LETTERS and footer > MOST_FOOTER_BYTES:
        raise ValueError(f"its footer takes {footer:,} bytes, more than {MOST_FOOTER_BYTES:,}")


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
