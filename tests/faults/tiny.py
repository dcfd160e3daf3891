"""A trial that costs nothing to train and whose value depends on every step of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import ground  # noqa: F401  before what it lets us import
import numpy as np
from checker import Undisturbed
from stories import EPOCHS, FOLDS, a_fold_end, a_fold_start, an_ending, an_epoch

from hms_tune.config.study_file import StudyFile
from hms_tune.config.trial import TrialConfig
from hms_tune.errors import CheckpointError
from hms_tune.training.checkpoint import (
    read_checkpoint,
    read_newest_checkpoint,
    shared_fold_path,
    write_checkpoint,
)
from hms_tune.training.events import CheckpointFailed, CheckpointWritten, Event

STUDY = """
study: {name}
data: {{folds: {folds}}}
training: {{epochs: 3, learning_rate: {{low: 1.0e-4, high: 1.0e-2, log: true}}}}
model: {{backbone: test_resnet, pretrained: false}}
search: {{sampler: random, {rule}, seed: {seed}}}
budget: {{trials: {trials}}}
tracking: {{wandb: {{mode: off}}}}
"""


PROMOTION = "scheduler: {name: promotion, reduction_factor: 2, rungs: [0.08, 0.25]}"
"""Trials pause after the first of twelve epochs and after the first fold; others may help with the rest."""

PROMOTED_FOLDS = 4

Trained = Callable[[TrialConfig, int], None]
"""Is told of each epoch as it is trained."""


def study_file(name: str, *, trials: int, seed: int = 0, promotion: bool = False) -> StudyFile:
    """A study whose trials run to their end, or pause at rungs."""
    rule, folds = (PROMOTION, PROMOTED_FOLDS) if promotion else ("pruner: none", FOLDS)
    text = STUDY.format(name=name, trials=trials, seed=seed, rule=rule, folds=folds)
    return StudyFile.parse(text, "faults")


def step(weight: float, number: int) -> float:
    """A map in which a difference in the last bit, or a step left out, grows to be seen."""
    return (weight * 3.9999 * (1.0 - weight) + 0.1 * number) % 1.0


def first_weight(learning_rate: float, fold: int) -> float:
    """Where a fold begins; it knows nothing of the others."""
    return learning_rate + 0.1 * fold


def undisturbed(learning_rate: float, folds: int = FOLDS) -> Undisturbed:
    """What a trial comes to when nothing happens to it."""
    done: list[float] = []
    reports = {}
    for fold in range(folds):
        weight = first_weight(learning_rate, fold)
        for epoch in range(EPOCHS):
            number = fold * EPOCHS + epoch
            weight = step(weight, number)
            reports[number + 1] = float(np.mean([*done, weight]))
        done.append(weight)
    return Undisturbed(float(np.mean(done)), reports)


def tiny_train(
    epoch_s: float, *, trained: Trained = lambda config, number: None
) -> Callable[[TrialConfig, Path], Iterator[Event]]:
    """The ``train`` of a slot."""

    def train(config: TrialConfig, directory: Path) -> Iterator[Event]:
        folds = config.data.trained_folds
        tiny = _Tiny(config, directory, epoch_s, trained)
        for fold in range(folds):
            yield from tiny.fold(fold)
        done = [tiny.story[fold][-1] for fold in range(folds)]
        kl = float(np.mean(done))
        yield an_ending(kl, kl_high_vote=kl, fold_kl=tuple(done), best_epochs=(EPOCHS - 1,) * folds)

    return train


def tiny_train_fold(
    epoch_s: float, *, trained: Trained = lambda config, number: None
) -> Callable[[TrialConfig, Path, int], Iterator[Event]]:
    """The ``train_fold`` of a slot."""

    def train_fold(config: TrialConfig, directory: Path, fold: int) -> Iterator[Event]:
        tiny = _Tiny(config, directory, epoch_s, trained)
        yield from tiny.fold(fold)
        yield tiny.written((fold + 1) * EPOCHS, fold, EPOCHS - 1)

    return train_fold


class _Tiny:
    """A trial; ``story`` has the weights after each epoch of each fold, as its checkpoint does."""

    def __init__(self, config: TrialConfig, directory: Path, epoch_s: float, trained: Trained) -> None:
        self.config, self.directory, self.epoch_s, self.trained = config, directory, epoch_s, trained
        saved = read_newest_checkpoint(directory)
        if saved is not None and saved["config"] != config.hash:
            raise CheckpointError("the checkpoint belongs to another trial", where=directory)
        self.story: dict[int, list[float]] = {} if saved is None else saved["story"]
        self._resumed = {fold: len(weights) for fold, weights in self.story.items()}

    def fold(self, fold: int) -> Iterator[Event]:
        folds = self.config.data.trained_folds
        mark = {"folds": folds}
        yield a_fold_start(fold, train_rows=1, validation_rows=1, replayed=fold in self._resumed, **mark)
        shared = shared_fold_path(self.directory, fold)
        if fold not in self._resumed and shared.exists():
            self.story[fold] = read_checkpoint(shared)["story"][fold]
        weights = self.story.setdefault(fold, [])
        known, done = len(weights), [self.story[each][-1] for each in range(fold) if each in self.story]
        for epoch in range(EPOCHS):
            number = fold * EPOCHS + epoch
            if epoch >= known:
                time.sleep(self.epoch_s)
                before = weights[-1] if weights else first_weight(self.config.training.learning_rate, fold)
                weights.append(step(before, number))
                self.trained(self.config, number)
            weight = weights[epoch]
            estimate = float(np.mean([*done, weight]))
            scores = {"kl": weight, "train_loss": weight, "estimate": estimate}
            replayed = epoch < known
            yield an_epoch(fold, epoch, images=1, seconds=self.epoch_s, replayed=replayed, **scores, **mark)
            if not replayed or (fold not in self._resumed and epoch == EPOCHS - 1):
                yield self.written(number, fold, epoch)
        later = any(each > fold for each in self._resumed)
        yield a_fold_end(fold, kl=weights[-1], replayed=later, **mark)

    def written(self, number: int, fold: int, epoch: int) -> Event:
        state = {"config": self.config.hash, "story": self.story}
        try:
            path = write_checkpoint(self.directory, number, state)
        except CheckpointError as error:
            return CheckpointFailed(reason=str(error), fold=fold, epoch=epoch)
        return CheckpointWritten(path=path, fold=fold, epoch=epoch)
