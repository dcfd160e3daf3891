"""What one trial trains on and is judged on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hms_tune.data.folds import HELD_OUT, fold_rows
from hms_tune.data.labels import HIGH_VOTES, Labels
from hms_tune.errors import DataError
from hms_tune.training.images.images import RowImages
from hms_tune.training.scores import kl_divergence, kl_per_row


@dataclass(frozen=True, slots=True)
class TrialData:
    """Everything one trial learns from.

    ``folds`` is int64 ``(n_repeats, n_rows)``: each row's fold in each repeat, or ``HELD_OUT``. Folds are
    counted through the repeats: fold 7 of 5 is the third one of the second repeat.
    """

    labels: Labels
    folds: NDArray[np.int64]
    images: RowImages
    judged_on: Literal["all_rows", "high_votes"]

    @property
    def held_out_rows(self) -> NDArray[np.int64]:
        """Rows of the patients that the whole search never sees."""
        return np.flatnonzero(self.folds[0] == HELD_OUT)

    def fold_rows(self, fold: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Training and validation rows of a fold."""
        return fold_rows(self.folds, fold)

    def prior_kl(self, fold: int) -> float:
        """The deciding KL of a fold that is predicted with the mean target of its training rows."""
        train, validation = self.fold_rows(fold)
        mean = self.labels.targets[train].mean(axis=0, dtype=np.float64)
        return self.judge(validation, np.broadcast_to(mean, (len(validation), len(mean)))).kl

    def judge(self, rows: NDArray[np.int64], probabilities: NDArray[np.floating]) -> Judged:
        """Score predictions of some rows.

        Raises
        ------
        DataError
            If high-vote rows decide and there are none.
        """
        targets = self.labels.targets[rows]
        high = self.labels.total_votes[rows] >= HIGH_VOTES
        all_rows = kl_divergence(targets, probabilities)
        high_vote = kl_divergence(targets[high], probabilities[high])
        if self.judged_on == "all_rows":
            return Judged(all_rows, all_rows, high_vote)
        if not high.any():
            raise DataError(
                f"no validation row has {HIGH_VOTES} votes or more",
                where="data.judged_on: high_votes",
                hint="Judge on all_rows, lower data.folds, or add patients",
            )
        return Judged(high_vote, all_rows, high_vote)

    def deciding(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of some rows decide."""
        every = self.judged_on == "all_rows"
        return np.full(len(rows), every) | (self.labels.total_votes[rows] >= HIGH_VOTES)

    def patient_kl(self, rows: NDArray[np.int64], probabilities: NDArray[np.floating]) -> NDArray[np.float32]:
        """Mean KL over the deciding rows of each patient with such rows, patients in ascending order."""
        deciding = self.deciding(rows)
        kl = kl_per_row(self.labels.targets[rows[deciding]], probabilities[deciding])
        _, place = np.unique(self.labels.patient_id[rows[deciding]], return_inverse=True)
        return (np.bincount(place, weights=kl) / np.bincount(place)).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Judged:
    """KL of predictions: ``kl`` is the one that decides, ``high_vote`` is NaN without such rows."""

    kl: float
    all_rows: float
    high_vote: float
