"""Out-of-fold predictions of each trial that was the best when it ended.

They lie in the database, half a megabyte each: whoever reads a study reads them too, from any machine. Those
of every complete trial lie with the checkpoints as well, where a report that reaches the database alone
cannot read them: they cannot take the place of these.
"""

from __future__ import annotations

import io
import zipfile
from typing import BinaryIO

import numpy as np

from hms_tune.data.schema import CLASSES
from hms_tune.database.connect import Storage
from hms_tune.database.queries import records
from hms_tune.training.events import OutOfFold

MOST_BYTES = 1 << 28
"""Of a trial's predictions; those of a million rows take about 150 MB."""


def keep_out_of_fold(storage: Storage, study_id: int, number: int, predictions: OutOfFold) -> None:
    """Keep a trial's out-of-fold predictions, compressed."""
    stream = io.BytesIO()
    arrays = {name: getattr(predictions, name) for name in OutOfFold.__dataclass_fields__}
    np.savez_compressed(stream, allow_pickle=False, **arrays)
    with storage.transaction() as connection:
        records.write_predictions(connection, study_id, number, stream.getvalue())


def kept_out_of_fold(storage: Storage, study_id: int, number: int) -> OutOfFold | None:
    """The predictions of a trial that was the best when it ended; None of any other."""
    with storage.transaction() as connection:
        content = records.predictions(connection, study_id, number)
    return None if content is None else unpacked(content)


def unpacked(content: bytes) -> OutOfFold:
    """Predictions as they were kept.

    Raises
    ------
    ValueError, KeyError, zipfile.BadZipFile, zlib.error
        If these are none.
    """
    return checked_predictions(io.BytesIO(content))


def checked_predictions(file: BinaryIO) -> OutOfFold:
    """Predictions of an ``.npz`` that anybody may have written.

    Raises
    ------
    ValueError, KeyError, OSError, RuntimeError, zipfile.BadZipFile, zlib.error, MemoryError
        If these are none.
    """
    with zipfile.ZipFile(file) as members:
        if sum(member.file_size for member in members.infolist()) > MOST_BYTES:
            raise ValueError("predictions are too large")
    file.seek(0)
    with np.load(file, allow_pickle=False) as arrays:
        values = {name: np.asarray(arrays[name]) for name in OutOfFold.__dataclass_fields__}
    rows = values["row"].shape[:1]
    for name, array in values.items():
        shared = name in ("probabilities", "targets")
        if array.dtype.kind not in ("f" if shared else "iu"):
            raise ValueError(f"predictions: {name} holds no numbers of its kind")
        if not rows or array.shape != (*rows, *((len(CLASSES),) if shared else ())):
            raise ValueError(f"predictions: {name} is of another shape")
        if shared and not (np.isfinite(array).all() and (array >= 0).all()):
            raise ValueError(f"predictions: {name} holds what is no share")
    return OutOfFold(**values)
