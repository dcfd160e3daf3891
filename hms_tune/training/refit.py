"""The winner once more, on every row."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from hms_tune.config.trial import TrialConfig
from hms_tune.training.checkpoint import (
    CheckpointClock,
    contents_checked,
    full_weights_path,
    read_newest_checkpoint,
    write_checkpoint,
    write_weights,
)
from hms_tune.training.events import CheckpointWritten, EpochEnded, Event, FoldStarted
from hms_tune.training.fold import FoldTraining
from hms_tune.training.workspace import Workspace


def refit_epochs(config: TrialConfig, best_epochs: tuple[int, ...]) -> int:
    """How many epochs a refit trains.

    That is to the mean best epoch, over the folds that were at their best in the stage where most were; a
    second stage is reached through the whole first one.
    """
    first = [epoch for epoch in best_epochs if epoch < config.training.epochs]
    second = [epoch for epoch in best_epochs if epoch >= config.training.epochs]
    return round(float(np.mean(second if len(second) > len(first) else first))) + 1


class Refit:
    """Trains one network on all rows, held-out patients included, without validation.

    The learning-rate schedule is that of the folds; training ends after ``epochs`` of it, which is the mean
    best epoch of the folds, so that the network stops where its siblings were at their best. KL is NaN in
    its events: nothing is left to judge it by, and a plateau schedule listens to the training loss.

    Parameters
    ----------
    config : the trial
    workspace : the prepared competition folder on the device
    epochs : how many epochs to train
    directory : receives checkpoints and ``full.safetensors``
    checkpoint_every_s : after an epoch no checkpoint is written before so many seconds have passed since the
        last one; 0: after every epoch
    """

    def __init__(
        self,
        config: TrialConfig,
        workspace: Workspace,
        *,
        epochs: int,
        directory: Path,
        checkpoint_every_s: float = 0.0,
    ) -> None:
        self.config = config
        self.workspace = workspace
        self.epochs = min(epochs, config.training.total_epochs)
        self.directory = directory
        self._clock = CheckpointClock(checkpoint_every_s)

    def run(self) -> Iterator[Event]:
        """Yield what happens; at the end ``full.safetensors`` lies in the directory."""
        data = self.workspace.trial_data(self.config)
        fold = self.config.data.folds * self.config.data.fold_repeats
        rows = np.arange(len(data.labels), dtype=np.int64)
        learner = self.workspace.learners.lend(self.config)
        state = FoldTraining(self.config, data, learner, fold=fold, train_rows=rows)
        checkpoints = self.directory / "full"
        saved = read_newest_checkpoint(checkpoints)
        identity = [self.config.hash, self.workspace.store.manifest.digest]
        first_epoch = 0
        if saved is not None and saved.get("identity") == identity:
            with contents_checked(checkpoints):
                state.load_state_dict(saved["state"])
                first_epoch = saved["epoch"] + 1
        yield FoldStarted(
            fold=0,
            folds=1,
            epochs=self.epochs,
            train_rows=len(rows),
            validation_rows=0,
            replayed=first_epoch > 0,
        )
        for epoch in range(first_epoch, self.epochs):
            start = time.perf_counter()
            trained = state.train_epoch(epoch)
            state.epoch_validated(epoch, trained.loss)
            yield EpochEnded(
                fold=0,
                folds=1,
                epoch=epoch,
                epochs=self.epochs,
                stage=state.stage_of(epoch).number,
                train_loss=trained.loss,
                kl=float("nan"),
                kl_all_rows=float("nan"),
                kl_high_vote=float("nan"),
                best_kl=float("nan"),
                estimate=float("nan"),
                learning_rate=trained.learning_rate,
                images=trained.images,
                seconds=time.perf_counter() - start,
            )
            if self._clock.due:
                content = {"identity": identity, "epoch": epoch, "state": state.state_dict()}
                path = write_checkpoint(checkpoints, epoch, content)
                self._clock.written()
                yield CheckpointWritten(path=path, fold=0, epoch=epoch)
        write_weights(full_weights_path(self.directory), state.judged_weights())
