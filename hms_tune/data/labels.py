"""Expert votes as training targets.

A row of ``train.csv`` holds the votes on one 50 s window. Windows of one EEG overlap and mostly carry the
same votes, so training sees one row per EEG, one per distinct vote vector of an EEG, or every one.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from hms_tune.data.schema import VOTE_COLUMNS, Split
from hms_tune.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

HIGH_VOTES = 10
"""A row with at least this many votes is on the high-vote scale, the one the leaderboard follows."""

Rows = Literal["eeg", "vote_vector", "row"]


@dataclass(frozen=True, slots=True)
class Labels:
    """Windows to learn from or to predict, one per row.

    Parameters
    ----------
    eeg_id, spectrogram_id, patient_id : int64 (n,)
    eeg_offset_seconds : float64 (n,), start of the 50 s EEG window in its recording
    spectrogram_offset_seconds : float64 (n,), start of the 10-minute window in its spectrogram
    votes : float64 (n, 6), in the order of :data:`hms_tune.data.schema.CLASSES`; zeros where nobody voted
        (the test split)
    raters : int64 (n,) or None, votes behind one window; the row sums of ``votes`` when None. With one row
        per EEG the votes are summed over overlapping windows, and only ``raters`` tells few from many experts
    split : which half of the competition the ids belong to
    soft : float32 (n, 6) or None, what rows learn from in place of their votes; NaN where a row has none
    """

    eeg_id: NDArray[np.int64]
    spectrogram_id: NDArray[np.int64]
    patient_id: NDArray[np.int64]
    eeg_offset_seconds: NDArray[np.float64]
    spectrogram_offset_seconds: NDArray[np.float64]
    votes: NDArray[np.float64]
    raters: NDArray[np.int64] | None = None
    split: Split = "train"
    soft: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.eeg_id)

    @property
    def targets(self) -> NDArray[np.float32]:
        """Votes over their sum, float32 (n, 6); zeros where nobody voted."""
        total = self.votes.sum(axis=1, keepdims=True)
        return np.asarray(self.votes / np.where(total > 0, total, 1.0), dtype=np.float32)

    @property
    def total_votes(self) -> NDArray[np.int64]:
        """Experts behind a row, int64 (n,): the most votes any one of its windows received."""
        return self.votes.sum(axis=1).astype(np.int64) if self.raters is None else self.raters

    def take(self, index: NDArray[Any]) -> Labels:
        """The rows that ``index`` (integers or a mask) selects, in its order."""
        arrays = {
            field.name: value[index]
            for field in fields(self)
            if isinstance(value := getattr(self, field.name), np.ndarray)
        }
        return Labels(**arrays, split=self.split)


def unlabelled(test: pd.DataFrame) -> Labels:
    """The rows of ``test.csv`` in file order, with no votes and windows that begin at the start.

    Parameters
    ----------
    test : validated table of the test half
    """
    n_rows = len(test)
    return Labels(
        eeg_id=test["eeg_id"].to_numpy(np.int64),
        spectrogram_id=test["spectrogram_id"].to_numpy(np.int64),
        patient_id=test["patient_id"].to_numpy(np.int64),
        eeg_offset_seconds=np.zeros(n_rows),
        spectrogram_offset_seconds=np.zeros(n_rows),
        votes=np.zeros((n_rows, len(VOTE_COLUMNS))),
        split="test",
    )


def make_labels(train: pd.DataFrame, *, rows: Rows = "eeg", min_votes: int = 1) -> Labels:
    """Turn the rows of ``train.csv`` into training rows. The result does not depend on the table's order.

    Parameters
    ----------
    train : validated table of the train half
    rows : ``eeg`` sums the votes of each EEG over its windows; ``vote_vector`` keeps one row for each
        distinct vote vector of an EEG; in both the window is the middle one of those it stands for. ``row``
        keeps every window
    min_votes : windows with fewer votes are left out before anything is summed

    Returns
    -------
    Labels, sorted by EEG, then by the first window a row stands for

    Raises
    ------
    DataError
        If no window has that many votes.
    """
    votes = list(VOTE_COLUMNS)
    # of votes that were shares a row's sum is whole but for rounding
    table = train.assign(raters=train[votes].sum(axis=1).round().astype(np.int64))
    table = table[table["raters"] >= min_votes]
    if table.empty:
        raise DataError(
            f"no window has {min_votes} or more votes; the most is {train[votes].sum(axis=1).max():.0f}",
            where="train.csv",
            hint="Lower data.min_votes.",
        )
    table = table.sort_values(["eeg_id", "eeg_label_offset_seconds", "eeg_sub_id"], kind="stable")
    keys = {"eeg": ["eeg_id"], "vote_vector": ["eeg_id", *votes], "row": ["eeg_id", "eeg_sub_id"]}[rows]
    groups = table.groupby(keys, sort=False)
    size, position = groups["eeg_id"].transform("size"), groups.cumcount()
    middle = table[position == size // 2].assign(group=groups.ngroup()).sort_values("group")
    first_votes = groups[votes].sum() if rows == "eeg" else groups[votes].first()
    return Labels(
        eeg_id=middle["eeg_id"].to_numpy(np.int64),
        spectrogram_id=middle["spectrogram_id"].to_numpy(np.int64),
        patient_id=middle["patient_id"].to_numpy(np.int64),
        eeg_offset_seconds=middle["eeg_label_offset_seconds"].to_numpy(np.float64),
        spectrogram_offset_seconds=middle["spectrogram_label_offset_seconds"].to_numpy(np.float64),
        votes=first_votes.to_numpy(np.float64),
        raters=groups["raters"].max().to_numpy(np.int64),
    )
