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
from hms_tune.training.checkpoint import read_newest_checkpoint, write_checkpoint
from hms_tune.training.events import CheckpointFailed, CheckpointWritten, Event

STUDY = """
study: {name}
data: {{folds: 2}}
training: {{epochs: 3, learning_rate: {{low: 1.0e-4, high: 1.0e-2, log: true}}}}
model: {{backbone: test_resnet, pretrained: false}}
search: {{sampler: random, {rule}, seed: {seed}}}
budget: {{trials: {trials}}}
tracking: {{wandb: {{mode: off}}}}
"""


PROMOTION = "scheduler: {name: promotion, reduction_factor: 2, rungs: [0.1, 0.5]}"
"""Trials pause after the first of their six epochs and after the third."""


def study_file(name: str, *, trials: int, seed: int = 0, promotion: bool = False) -> StudyFile:
    """A study whose trials run to their end, or pause at rungs."""
    rule = PROMOTION if promotion else "pruner: none"
    return StudyFile.parse(STUDY.format(name=name, trials=trials, seed=seed, rule=rule), "faults")


def step(weight: float, number: int) -> float:
    """A map in which a difference in the last bit, or a step left out, grows to be seen."""
    return (weight * 3.9999 * (1.0 - weight) + 0.1 * number) % 1.0


def undisturbed(learning_rate: float) -> Undisturbed:
    """What a trial comes to when nothing happens to it."""
    weight, done, reports = learning_rate, [], {}
    for fold in range(FOLDS):
        for epoch in range(EPOCHS):
            number = fold * EPOCHS + epoch
            weight = step(weight, number)
            reports[number + 1] = float(np.mean([*done, weight]))
        done.append(weight)
    return Undisturbed(float(np.mean(done)), reports)


def tiny_train(
    epoch_s: float, *, trained: Callable[[TrialConfig, int], None] = lambda config, number: None
) -> Callable[[TrialConfig, Path], Iterator[Event]]:
    """The ``train`` of a slot. ``trained`` is told of each epoch as it is trained."""

    def train(config: TrialConfig, directory: Path) -> Iterator[Event]:
        saved = read_newest_checkpoint(directory)
        if saved is not None and saved["config"] != config.hash:
            raise CheckpointError("the checkpoint belongs to another trial", where=directory)
        story: list[float] = [] if saved is None else saved["story"]
        replayed, done = len(story), []
        for fold in range(FOLDS):
            first = fold * EPOCHS
            yield a_fold_start(fold, train_rows=1, validation_rows=1, replayed=first < replayed)
            for epoch in range(EPOCHS):
                number = first + epoch
                if number >= replayed:
                    time.sleep(epoch_s)
                    before = story[-1] if story else config.training.learning_rate
                    story.append(step(before, number))
                    trained(config, number)
                weight = story[number]
                yield an_epoch(
                    fold,
                    epoch,
                    kl=weight,
                    train_loss=weight,
                    estimate=float(np.mean([*done, weight])),
                    images=1,
                    seconds=epoch_s,
                    replayed=number < replayed,
                )
                if number >= replayed:
                    yield _written(directory, number, {"config": config.hash, "story": story}, fold, epoch)
            done.append(story[first + EPOCHS - 1])
            yield a_fold_end(fold, kl=done[-1], replayed=first + EPOCHS < replayed)
        kl = float(np.mean(done))
        yield an_ending(kl, kl_high_vote=kl, fold_kl=tuple(done), best_epochs=(EPOCHS - 1,) * FOLDS)

    return train


def _written(directory: Path, number: int, state: dict, fold: int, epoch: int) -> Event:
    try:
        path = write_checkpoint(directory, number, state)
    except CheckpointError as error:
        return CheckpointFailed(reason=str(error), fold=fold, epoch=epoch)
    return CheckpointWritten(path=path, fold=fold, epoch=epoch)
