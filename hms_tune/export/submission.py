"""The file that the competition scores."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hms_tune.data.schema import VOTE_COLUMNS
from hms_tune.errors import BundleError
from hms_tune.machine.regular_file import appearing

_FLOAT32_TOLERANCE = 1e-4
_DIGITS = "%.10f"


def submission_table(eeg_id: NDArray[np.int64], probabilities: NDArray[np.floating]) -> pd.DataFrame:
    """The rows of a submission, checked.

    Parameters
    ----------
    eeg_id : int64 array, shape (n_rows,), each id once
    probabilities : array, shape (n_rows, 6), rows summing to 1

    Returns
    -------
    DataFrame with ``eeg_id`` and the six vote columns in the order of ``train.csv``, float64

    Raises
    ------
    BundleError
        If a prediction is not a distribution, or an id comes twice.
    """
    values = np.asarray(probabilities, dtype=np.float64)
    if values.shape != (len(eeg_id), len(VOTE_COLUMNS)):
        raise BundleError(
            f"predictions have shape {values.shape}, expected ({len(eeg_id)}, {len(VOTE_COLUMNS)})"
        )
    if len(np.unique(eeg_id)) != len(eeg_id):
        raise BundleError("an eeg_id comes twice in the rows to predict", hint="Remove the second row")
    sums = values.sum(axis=1, keepdims=True)
    wrong = ~np.isfinite(values).all(axis=1) | (values < 0).any(axis=1)
    wrong |= ~(np.abs(sums[:, 0] - 1.0) <= _FLOAT32_TOLERANCE)
    if wrong.any():
        raise BundleError(
            f"{int(wrong.sum())} of {len(values)} predictions are not probabilities",
            where=f"eeg_id {int(eeg_id[int(np.argmax(wrong))])}",
            hint="Run hms-tune data check on the folder",
        )
    table = pd.DataFrame(values / sums, columns=list(VOTE_COLUMNS))
    table.insert(0, "eeg_id", np.asarray(eeg_id, dtype=np.int64))
    return table


def write_submission(path: Path, eeg_id: NDArray[np.int64], probabilities: NDArray[np.floating]) -> Path:
    """Write ``submission.csv`` as a whole or not at all; see :func:`submission_table`.

    Raises
    ------
    HmsTuneError
        If the disk is full or fails; what was at ``path`` is still there.
    """
    table = submission_table(eeg_id, probabilities)
    with appearing(path, named_by="--out") as written:
        table.to_csv(written, index=False, float_format=_DIGITS)  # compressed as its ending says
    return path
