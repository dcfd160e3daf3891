"""The out-of-fold predictions of a bundle, as tables: as they came, and under changes of the signals."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from hms_tune.config.augmentation import TestTime
from hms_tune.data.number_columns import MissingColumnsError, read_numbers
from hms_tune.data.schema import CLASSES
from hms_tune.errors import BundleError, first_line
from hms_tune.export.bundle import read_bundle_config
from hms_tune.export.test_time import changes
from hms_tune.training.events import OutOfFold

_PROBABILITIES = [f"{name.lower()}_probability" for name in CLASSES]
_TARGETS = [f"{name.lower()}_target" for name in CLASSES]


_IDS = ("row", "patient_id", "eeg_id")
_NUMBERS = (*_PROBABILITIES, *_TARGETS)


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
    UsageError
        If its window cannot be shifted.
    """
    name, hint = table_name(test_time), "Export the trial again"
    config = read_bundle_config(bundle)
    if name not in config.files:
        changes(test_time, [config.config.input])  # no export predicts what these refuse
        what = f"with {' and '.join(test_time)}" if test_time else "at all"
        raise BundleError(f"it has no out-of-fold predictions {what}", where=bundle, hint=hint)
    try:
        table = read_numbers(bundle / name, whole=_IDS, real=_NUMBERS).to_pandas()
    except MissingColumnsError as error:
        raise BundleError(f"{error}: an earlier version wrote it", where=bundle / name, hint=hint) from error
    except (pa.ArrowException, OSError, ValueError, TypeError, LookupError, MemoryError) as error:
        raise BundleError(f"cannot be read ({first_line(error)})", where=bundle / name, hint=hint) from error
    return _one_for_each_row(table)


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
