"""Out-of-fold predictions of each trial that was the best when it ended.

They lie in the database, half a megabyte each: whoever reads a study reads them too, from any machine. Those
of every complete trial lie with the checkpoints as well, where a report that reaches the database alone
cannot read them: they cannot take the place of these.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from hms_tune.data.schema import CLASSES
from hms_tune.database.connect import Storage
from hms_tune.database.queries import records
from hms_tune.training.events import EpochScores, OutOfFold

MOST_BYTES = 1 << 28
"""Of a trial's predictions; those of a million rows take about 150 MB."""

_ARRAYS = tuple(each.name for each in fields(OutOfFold) if each.name != "epochs")
_EPOCH_ARRAYS = tuple(each.name for each in fields(EpochScores))
_OF_EPOCHS = "epochs_"
"""What the names of arrays begin with that tell of epochs; earlier versions kept none."""


def keep_out_of_fold(storage: Storage, study_id: int, number: int, predictions: OutOfFold) -> None:
    """Keep a trial's out-of-fold predictions, compressed."""
    stream = io.BytesIO()
    np.savez_compressed(stream, allow_pickle=False, **arrays_of(predictions))
    with storage.transaction() as connection:
        records.write_predictions(connection, study_id, number, stream.getvalue())


def kept_out_of_fold(storage: Storage, study_id: int, number: int) -> OutOfFold | None:
    """The predictions of a trial that was the best when it ended; None of any other."""
    with storage.transaction() as connection:
        content = records.predictions(connection, study_id, number)
    return None if content is None else unpacked(content)


def arrays_of(predictions: OutOfFold) -> dict[str, Any]:
    """Predictions as arrays to be written, by name."""
    arrays = {name: getattr(predictions, name) for name in _ARRAYS}
    if predictions.epochs is not None:
        arrays |= {_OF_EPOCHS + name: getattr(predictions.epochs, name) for name in _EPOCH_ARRAYS}
    return arrays


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
        values = {name: np.asarray(arrays[name]) for name in _ARRAYS}
        known = all(_OF_EPOCHS + name in arrays for name in _EPOCH_ARRAYS)
        of_epochs = {name: np.asarray(arrays[_OF_EPOCHS + name]) for name in _EPOCH_ARRAYS} if known else None
    rows = values["row"].shape[:1]
    for name, array in values.items():
        shared = name in ("probabilities", "targets")
        if array.dtype.kind not in ("f" if shared else "iu"):
            raise ValueError(f"predictions: {name} holds no numbers of its kind")
        if not rows or array.shape != (*rows, *((len(CLASSES),) if shared else ())):
            raise ValueError(f"predictions: {name} is of another shape")
        if shared and not (np.isfinite(array).all() and (array >= 0).all()):
            raise ValueError(f"predictions: {name} holds what is no share")
    return OutOfFold(**values, epochs=None if of_epochs is None else _checked_epochs(of_epochs))


def _checked_epochs(values: Mapping[str, NDArray[Any]]) -> EpochScores:
    kl = values["kl"]
    columns = kl.shape[1:]
    for name, array in values.items():
        if array.dtype.kind not in ("f" if name == "kl" else "iu"):
            raise ValueError(f"epochs: {name} holds no numbers of its kind")
        if len(columns) != 1 or array.shape != (kl.shape if name == "kl" else columns):
            raise ValueError(f"epochs: {name} is of another shape")
    if np.isinf(kl).any() or (kl < 0).any() or (values["rows"] < 1).any():
        raise ValueError("epochs: what is no KL of some rows")
    return EpochScores(**values)
