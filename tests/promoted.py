"""A study whose trials are promoted over several folds, with a fake in the place of training."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from stories import a_fold_end, a_fold_start, an_ending, an_epoch, some_predictions

from hms_tune.config.study_file import StudyFile
from hms_tune.config.trial import TrialConfig
from hms_tune.training.checkpoint import (
    read_checkpoint,
    read_newest_checkpoint,
    shared_fold_path,
    write_checkpoint,
)
from hms_tune.training.events import CheckpointWritten, Event

FOLDS, EPOCHS = 5, 2
STUDY = """
study: {name}
data: {{folds: 5}}
training: {{epochs: 2, learning_rate: {{low: 1.0e-4, high: 1.0e-2, log: true}}}}
model: {{backbone: test_resnet, pretrained: false}}
search: {{sampler: {sampler}, scheduler: {{name: promotion, reduction_factor: 2, rungs: [0.2]}}}}
budget: {{trials: {trials}{more}}}
"""
"""Trials of ten epochs that pause after the first fold."""


def a_study(name: str, *, trials: int = 4, sampler: str = "random", more: str = "") -> StudyFile:
    text = STUDY.format(name=name, trials=trials, sampler=sampler, more=more)
    return StudyFile.parse(text, "test")


def nothing(_fold: int) -> None: ...


@dataclass
class Training:
    """Five folds of two epochs; ``story`` of a checkpoint has the epochs trained of each fold."""

    before: Callable[[int], None] = nothing
    """Is called with the fold before each epoch of a trial's own."""
    rows: int = 0
    """Of the out-of-fold predictions, which are no better than chance."""
    trained: Counter[tuple[float, int]] = field(default_factory=Counter)

    def train(self, config: TrialConfig, directory: Path) -> Iterator[Event]:
        saved = read_newest_checkpoint(directory)
        story: dict[int, int] = {} if saved is None else saved["story"]
        for fold in range(FOLDS):
            yield from self._fold(config, directory, story, fold, self.before)
        yield an_ending(_kl(config), predictions=some_predictions(self.rows))

    def train_fold(self, config: TrialConfig, directory: Path, fold: int) -> Iterator[Event]:
        saved = read_newest_checkpoint(directory)
        story: dict[int, int] = {} if saved is None else saved["story"]
        yield from self._fold(config, directory, story, fold, nothing)
        yield _written(directory, EPOCHS * (fold + 1), story, fold)

    def _fold(
        self,
        config: TrialConfig,
        directory: Path,
        story: dict[int, int],
        fold: int,
        before: Callable[[int], None],
    ) -> Iterator[Event]:
        resumed = fold in story
        yield a_fold_start(fold, folds=FOLDS, replayed=resumed)
        if not resumed and shared_fold_path(directory, fold).exists():
            story[fold] = read_checkpoint(shared_fold_path(directory, fold))["story"][fold]
        known = story.setdefault(fold, 0)
        for epoch in range(EPOCHS):
            if epoch >= known:
                before(fold)
                self.trained[config.training.learning_rate, fold] += 1
                story[fold] = epoch + 1
            yield an_epoch(fold, epoch, kl=_kl(config), folds=FOLDS, replayed=epoch < known)
            if epoch >= known:
                yield _written(directory, EPOCHS * fold + epoch, story, fold)
        yield a_fold_end(fold, kl=_kl(config), folds=FOLDS, replayed=resumed and fold + 1 in story)


def _kl(config: TrialConfig) -> float:
    return 1.0 + 10 * config.training.learning_rate


def _written(directory: Path, number: int, story: dict[int, int], fold: int) -> Event:
    return CheckpointWritten(path=write_checkpoint(directory, number, {"story": story}), fold=fold, epoch=0)
