"""What happens in a trial, as values. Training yields them; whoever runs it decides what to do with each.

A trial that resumes from a checkpoint first yields again, with ``replayed=True``, every event that came
before it, so that an observer sees the same story whether or not the trial was ever interrupted.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class FoldStarted:
    """A fold begins. ``fold`` counts from 0; ``folds`` is how many this trial trains."""

    fold: int
    folds: int
    epochs: int
    train_rows: int
    validation_rows: int
    replayed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochEnded:
    """An epoch was trained and validated. KL is the competition's metric over the fold's validation rows.

    ``epoch`` counts from 0 through both stages; a first stage that ends early leaves a gap. ``kl`` is the
    score that decides, ``kl_all_rows`` or ``kl_high_vote`` as ``data.judged_on`` says; the latter is NaN
    without such rows. ``estimate`` is the cross-validation score as known so far: the mean of the best one of
    every finished fold and of this one, on the scale of all folds
    (:func:`~hms_tune.training.fold_difficulty.comparable_estimate`).
    """

    fold: int
    folds: int
    epoch: int
    epochs: int
    stage: int
    train_loss: float
    kl: float
    kl_all_rows: float
    kl_high_vote: float
    best_kl: float
    estimate: float
    learning_rate: float
    images: int
    seconds: float
    replayed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointWritten:
    """Everything up to and including this epoch can be resumed from ``path``."""

    path: Path
    fold: int
    epoch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointFailed:
    """This epoch could not be written down, for want of space for example; the trial goes on from memory."""

    reason: str
    fold: int
    epoch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FoldEnded:
    """A fold is done; its scores are those of its best epoch. ``kl`` is the one that decides."""

    fold: int
    folds: int
    kl: float
    kl_all_rows: float
    kl_high_vote: float
    best_epoch: int
    epochs_run: int
    stopped_early: bool
    replayed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochScores:
    """KL of each validation patient after each epoch of its fold: what the best epochs were chosen by.

    A column for each fold and each of its patients with rows that decide. ``fold``, ``patient_id`` and
    ``rows`` (how many decide) are int64 ``(n_columns,)``; ``kl`` is the mean over a patient's rows, float32
    ``(n_epochs, n_columns)``, NaN for an epoch that the fold did not run.
    """

    fold: NDArray[np.int64]
    patient_id: NDArray[np.int64]
    rows: NDArray[np.int64]
    kl: NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class OutOfFold:
    """Predictions of every validation row by the network that never saw its patient.

    With repeated folds a row appears once in each repeat, and ``fold`` counts through all repeats. ``row``
    indexes the trial's labels; ``probabilities`` and ``targets`` are float32 ``(n_rows, 6)`` in the order of
    :data:`hms_tune.data.schema.CLASSES`; ``total_votes`` is the number of votes behind a target.
    ``epochs`` is None where an earlier version trained a part of the trial.
    """

    row: NDArray[np.int64]
    eeg_id: NDArray[np.int64]
    patient_id: NDArray[np.int64]
    fold: NDArray[np.int64]
    probabilities: NDArray[np.float32]
    targets: NDArray[np.float32]
    total_votes: NDArray[np.int64]
    epochs: EpochScores | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CrossValidationEnded:
    """All folds are done. ``kl`` is the mean of the deciding score over folds, which a search minimizes.

    ``kl_all_rows`` and ``kl_high_vote`` are over all out-of-fold predictions at once.
    """

    kl: float
    kl_all_rows: float
    kl_high_vote: float
    fold_kl: tuple[float, ...]
    best_epochs: tuple[int, ...]
    out_of_fold: OutOfFold


Event = FoldStarted | EpochEnded | CheckpointWritten | CheckpointFailed | FoldEnded | CrossValidationEnded
