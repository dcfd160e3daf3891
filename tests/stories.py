"""Trials and their events, made by hand for tests of whoever is told them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from hms_tune.config.trial import TrialConfig
from hms_tune.training.events import (
    CheckpointWritten,
    CrossValidationEnded,
    EpochEnded,
    Event,
    FoldEnded,
    FoldStarted,
    OutOfFold,
)
from hms_tune.training.observer import Observer, TrialInfo
from hms_tune.trial_state import AttemptState

FOLDS, EPOCHS = 2, 3


def a_trial(attempt: int = 7, **changes: Any) -> TrialInfo:
    """A trial in its first attempt."""
    values: dict[str, Any] = {"trial": attempt, "config": TrialConfig(), "params": {}, "slot": "cpu"}
    return TrialInfo(study="effnet", attempt=attempt, **(values | changes))


def a_fold_start(fold: int = 0, **changes: Any) -> FoldStarted:
    """80 rows to train on and 20 to validate."""
    start = FoldStarted(fold=fold, folds=FOLDS, epochs=EPOCHS, train_rows=80, validation_rows=20)
    return replace(start, **changes)


def an_epoch(fold: int = 0, epoch: int = 0, *, kl: float = 0.9, **changes: Any) -> EpochEnded:
    """An epoch of 400 images in 2 s; every score is ``kl``."""
    ended = EpochEnded(
        fold=fold,
        folds=FOLDS,
        epoch=epoch,
        epochs=EPOCHS,
        stage=0,
        train_loss=1.0,
        kl=kl,
        kl_all_rows=kl,
        kl_high_vote=kl,
        best_kl=kl,
        estimate=kl,
        learning_rate=1e-3,
        images=400,
        seconds=2.0,
    )
    return replace(ended, **changes)


def a_fold_end(fold: int = 0, *, kl: float = 0.8, **changes: Any) -> FoldEnded:
    """A fold that was at its best in its last epoch."""
    ended = FoldEnded(
        fold=fold,
        folds=FOLDS,
        kl=kl,
        kl_all_rows=kl,
        kl_high_vote=kl,
        best_epoch=EPOCHS - 1,
        epochs_run=EPOCHS,
        stopped_early=False,
    )
    return replace(ended, **changes)


def some_predictions(rows: int = 0, *, seed: int = 0) -> OutOfFold:
    """Predictions and votes drawn at random."""
    generator = np.random.default_rng(seed)
    votes = generator.integers(0, 9, (rows, 6)) + np.eye(6, dtype=np.int64)[generator.integers(0, 6, rows)]
    number = np.arange(rows, dtype=np.int64)
    total = votes.sum(axis=1)
    return OutOfFold(
        row=number,
        eeg_id=number + 1000,
        patient_id=number // 2,
        fold=number % FOLDS,
        probabilities=generator.dirichlet(np.ones(6), rows).astype(np.float32),
        targets=(votes / total[:, None]).astype(np.float32) if rows else np.zeros((0, 6), np.float32),
        total_votes=total,
    )


def an_ending(
    kl: float = 0.85, *, predictions: OutOfFold | None = None, **changes: Any
) -> CrossValidationEnded:
    """The end of a cross-validation; both folds scored ``kl``."""
    ended = CrossValidationEnded(
        kl=kl,
        kl_all_rows=kl,
        kl_high_vote=float("nan"),
        fold_kl=(kl,) * FOLDS,
        best_epochs=(1, 2),
        out_of_fold=predictions or some_predictions(),
    )
    return replace(ended, **changes)


def a_checkpoint(fold: int, epoch: int, folder: Path = Path("checkpoints")) -> CheckpointWritten:
    """A checkpoint that does not exist."""
    return CheckpointWritten(path=folder / f"{fold}-{epoch}", fold=fold, epoch=epoch)


def a_story(*, replayed: int = 0, predictions: OutOfFold | None = None) -> Iterator[Event]:
    """A whole trial: KL falls from 1.0 to 0.8 in the first fold, from 1.5 to 1.3 in the second.

    The first ``replayed`` epochs were trained by an earlier attempt.
    """
    for fold in range(FOLDS):
        yield a_fold_start(fold, replayed=replayed > fold * EPOCHS)
        for epoch in range(EPOCHS):
            before = fold * EPOCHS + epoch < replayed
            yield an_epoch(fold, epoch, kl=1.0 - 0.1 * epoch + 0.5 * fold, replayed=before)
        yield a_fold_end(fold, kl=0.8 + 0.5 * fold, replayed=replayed >= (fold + 1) * EPOCHS)
    yield an_ending(1.05, fold_kl=(0.8, 1.3), kl_all_rows=1.04, kl_high_vote=0.7, predictions=predictions)


def tell(
    observer: Observer, trial: TrialInfo, *, replayed: int = 0, predictions: OutOfFold | None = None
) -> None:
    """Tell an observer a whole trial, and that there are no more."""
    observer.trial_started(trial)
    for event in a_story(replayed=replayed, predictions=predictions):
        observer.event(trial, event)
    observer.trial_ended(trial, AttemptState.COMPLETE, 1.05, None)
    observer.close()
