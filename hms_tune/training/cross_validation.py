"""One trial: its folds, one after another, as a stream of events."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hms_tune.config.trial import TrialConfig
from hms_tune.data.store.store import Store
from hms_tune.errors import CheckpointError, NonFiniteLossError
from hms_tune.machine.device import resolve_device
from hms_tune.training.checkpoint import (
    CheckpointClock,
    checkpoint_path,
    contents_checked,
    fold_weights_path,
    read_checkpoint,
    read_newest_checkpoint,
    shared_fold_path,
    write_checkpoint,
    write_weights,
)
from hms_tune.training.early_stopping import BestEpoch
from hms_tune.training.events import (
    CheckpointFailed,
    CheckpointWritten,
    EpochEnded,
    Event,
    FoldEnded,
    FoldStarted,
)
from hms_tune.training.fold import FoldTraining
from hms_tune.training.fold_difficulty import comparable_estimate
from hms_tune.training.progress import Progress, is_of
from hms_tune.training.trial_data import Judged, TrialData
from hms_tune.training.workspace import Workspace

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Fold:
    """The fold in progress: what trains, what it is judged on, and its best epoch so far."""

    number: int
    training: FoldTraining
    validation_rows: NDArray[np.int64]
    best: BestEpoch


class CrossValidation:
    """Trains and validates one trial configuration over its patient-grouped folds.

    Parameters
    ----------
    config : the trial
    store : the prepared competition folder, or a workspace that already holds it on the device
    device : where to compute; ignored when a workspace is given
    directory : where checkpoints go; a trial whose checkpoint lies there goes on from it
    checkpoint_every_s : after an epoch no checkpoint is written before so many seconds have passed since the
        last one; 0: after every epoch
    checkpoint_now : asked after every epoch whether to write one all the same
    keep_weights : also write ``fold_<k>.safetensors``, the weights of each fold's best epoch

    Notes
    -----
    Where the workspace belongs to one of several ranks, every rank runs the same trial and sees the same
    events; the first alone reads and writes files.

    On the CPU a resumed trial's weights, predictions and events equal those of an undisturbed one bit for
    bit (with the same number of threads). Nothing is learnt about who listens: the caller may stop
    iterating at any event.
    """

    def __init__(
        self,
        config: TrialConfig,
        store: Store | Workspace,
        device: torch.device | str = "auto",
        *,
        directory: Path | None = None,
        keep_weights: bool = False,
        checkpoint_every_s: float = 0.0,
        checkpoint_now: Callable[[], bool] = lambda: False,
    ) -> None:
        self.config = config
        self._clock = CheckpointClock(checkpoint_every_s, checkpoint_now)
        if isinstance(store, Workspace):
            self.workspace = store
        else:
            self.workspace = Workspace(store, resolve_device(str(device)))
        self.directory = directory
        self.keep_weights = keep_weights
        self._prior: tuple[float, ...] | None = None

    def run(self) -> Iterator[Event]:
        """Yield what happens, until :class:`~hms_tune.training.events.CrossValidationEnded`.

        Raises
        ------
        NonFiniteLossError, DataError, ModelError
            If the trial cannot go on.
        CheckpointError
            If the directory belongs to another trial.
        """
        data = self.workspace.trial_data(self.config)
        progress = self._resumed(data)
        for event in progress.events:
            yield replace(event, replayed=True)
        for number in range(len(progress.folds_done), self.config.data.trained_folds):
            yield from self._run_fold(number, data, progress)
        yield progress.conclusion(data)

    def run_fold(self, number: int) -> Iterator[Event]:
        """Train one fold alone, for a trial whose other folds are trained elsewhere.

        The last event is a checkpoint of the whole fold. If the trial finds that file at
        :func:`~hms_tune.training.checkpoint.shared_fold_path` when the fold starts, it goes on from there;
        events and predictions are bit for bit those of a trial that trained the fold itself. This training
        goes on from a checkpoint within the fold, too.
        """
        data = self.workspace.trial_data(self.config)
        progress = self._resumed(data)
        for event in progress.events:
            yield replace(event, replayed=True)
        if not progress.folds_done:
            yield from self._run_fold(number, data, progress)
        if self.directory is not None:
            epochs = self.config.training.total_epochs
            yield self._written(self.directory, (number + 1) * epochs, number, epochs - 1, progress)

    def _run_fold(self, number: int, data: TrialData, progress: Progress) -> Iterator[Event]:
        train_rows, validation_rows = data.fold_rows(number)
        if progress.fold_state is None:
            started = FoldStarted(
                fold=number,
                folds=self.config.data.trained_folds,
                epochs=self.config.training.total_epochs,
                train_rows=len(train_rows),
                validation_rows=len(validation_rows),
            )
            progress.events.append(started)
            yield started
            yield from self._take_in(number, data, progress)
            if any(done.fold == number for done in progress.folds_done):
                return
        learner = self.workspace.learners.lend(self.config)
        training = FoldTraining(self.config, data, learner, fold=number, train_rows=train_rows)
        fold = _Fold(number, training, validation_rows, BestEpoch(self.config.training.early_stopping))
        epoch: int | None = 0
        if progress.fold_state is not None and progress.best_state is not None:
            with contents_checked(self.directory or Path()):
                fold.training.load_state_dict(progress.fold_state)
                fold.best.load_state_dict(progress.best_state)
            last = progress.events[-1]
            epoch = _next_epoch(last.epoch, fold) if isinstance(last, EpochEnded) else 0

        while epoch is not None:
            ended = self._run_epoch(epoch, fold, data, progress)
            progress.events.append(ended)
            yield ended
            if self.directory is not None and self._checkpoint_due():
                yield self._checkpointed(self.directory, fold, epoch, progress)
            epoch = _next_epoch(epoch, fold)

        if self.keep_weights and self.directory is not None and progress.best_weights is not None:
            write_weights(fold_weights_path(self.directory, number), progress.best_weights)
        progress.fold_state = progress.best_state = progress.best_weights = None
        fold_ended = self._fold_ended(fold, data, progress)
        progress.events.append(fold_ended)
        yield fold_ended

    def _take_in(self, number: int, data: TrialData, progress: Progress) -> Iterator[Event]:
        """Add what another worker trained of a fold, if its checkpoint is there."""
        if (directory := self.directory) is None:
            return
        state = self.workspace.ranks.from_first(lambda: self._shared_fold(directory, number))
        if state is None:
            return
        with contents_checked(shared_fold_path(directory, number)):
            shared = Progress.unpacked(state)
        progress.predictions |= shared.predictions
        progress.patient_kl |= shared.patient_kl
        progress.best_weights, progress.fold_state = shared.best_weights, shared.fold_state
        progress.best_state = shared.best_state
        for event in shared.events[1:]:  # this fold has started here
            if isinstance(event, EpochEnded):
                estimate = self._estimate(number, event.best_kl, data, progress)
                progress.events.append(replace(event, estimate=estimate))
            else:
                progress.events.append(event)
            yield replace(progress.events[-1], replayed=True)
        if shared.folds_done:
            epochs = self.config.training.total_epochs
            yield self._written(directory, (number + 1) * epochs - 1, number, epochs - 1, progress)

    def _shared_fold(self, directory: Path, number: int) -> dict[str, Any] | None:
        path = shared_fold_path(directory, number)
        if not path.exists():
            return None
        try:
            state = read_checkpoint(path)
        except CheckpointError as error:
            _log.warning("%s; the fold is trained here", error)
            return None
        if not is_of(state, *self._names):
            _log.warning("%s is of other data; the fold is trained here", path)
            return None
        return state

    def _run_epoch(self, epoch: int, fold: _Fold, data: TrialData, progress: Progress) -> EpochEnded:
        start = time.perf_counter()
        stage = fold.training.stage_of(epoch)
        if epoch == stage.first_epoch:
            fold.best.renew_patience()
        trained = fold.training.train_epoch(epoch)
        predictions = fold.training.predict(fold.validation_rows)
        judged = self._agreed(data.judge(fold.validation_rows, predictions), fold, epoch)
        fold.training.epoch_validated(epoch, judged.kl)
        progress.add_patient_kl(fold.number, data.patient_kl(fold.validation_rows, predictions))
        if fold.best.observe(epoch, judged.kl):
            progress.predictions[fold.number] = predictions
            if self.keep_weights and self.workspace.ranks.first:
                progress.best_weights = fold.training.judged_weights()
        return EpochEnded(
            fold=fold.number,
            folds=self.config.data.trained_folds,
            epoch=epoch,
            epochs=self.config.training.total_epochs,
            stage=stage.number,
            train_loss=trained.loss,
            kl=judged.kl,
            kl_all_rows=judged.all_rows,
            kl_high_vote=judged.high_vote,
            best_kl=fold.best.kl,
            estimate=self._estimate(fold.number, fold.best.kl, data, progress),
            learning_rate=trained.learning_rate,
            images=trained.images,
            seconds=time.perf_counter() - start,
        )

    def _estimate(self, fold: int, best_kl: float, data: TrialData, progress: Progress) -> float:
        """The cross-validation score as known so far, on the scale of all folds."""
        scores = [done.kl for done in progress.folds_done] + [best_kl]
        return comparable_estimate(float(np.mean(scores)), fold, self._prior_kl(data))

    def _prior_kl(self, data: TrialData) -> tuple[float, ...]:
        if self._prior is None:
            self._prior = tuple(data.prior_kl(fold) for fold in range(self.config.data.trained_folds))
        return self._prior

    def _agreed(self, judged: Judged, fold: _Fold, epoch: int) -> Judged:
        """The score by which all ranks go on; refused where it is not finite."""
        agreed = Judged(*self.workspace.ranks.agreed(judged.kl, judged.all_rows, judged.high_vote))
        if not np.isfinite(agreed.kl):
            raise NonFiniteLossError(
                f"the validation KL became {agreed.kl}",
                where=f"fold {fold.number}, epoch {epoch}",
                hint="Lower training.learning_rate or set training.grad_clip",
            )
        return agreed

    def _fold_ended(self, fold: _Fold, data: TrialData, progress: Progress) -> FoldEnded:
        number, events = fold.number, progress.events
        epochs_run = sum(isinstance(event, EpochEnded) and event.fold == number for event in events)
        judged = data.judge(fold.validation_rows, progress.predictions[number])
        return FoldEnded(
            fold=number,
            folds=self.config.data.trained_folds,
            kl=fold.best.kl,
            kl_all_rows=judged.all_rows,
            kl_high_vote=judged.high_vote,
            best_epoch=fold.best.epoch,
            epochs_run=epochs_run,
            stopped_early=epochs_run < self.config.training.total_epochs,
        )

    def _checkpoint_due(self) -> bool:
        """Whether to write a checkpoint now; on several ranks the first one decides."""
        (agreed,) = self.workspace.ranks.agreed(float(self._clock.due))
        if agreed:
            self._clock.written()
        return bool(agreed)

    def _checkpointed(
        self, directory: Path, fold: _Fold, epoch: int, progress: Progress
    ) -> CheckpointWritten | CheckpointFailed:
        """Write a checkpoint within a fold."""
        number = fold.number * self.config.training.total_epochs + epoch
        if self.workspace.ranks.first:
            progress.fold_state, progress.best_state = fold.training.state_dict(), fold.best.state_dict()
        return self._written(directory, number, fold.number, epoch, progress)

    def _written(
        self, directory: Path, number: int, fold: int, epoch: int, progress: Progress
    ) -> CheckpointWritten | CheckpointFailed:
        """The first rank writes a checkpoint. A full disk costs the safety of this epoch, not the trial."""
        path = checkpoint_path(directory, number)
        if self.workspace.ranks.first:
            try:
                path = write_checkpoint(directory, number, progress.packed(*self._names))
            except CheckpointError as error:
                _log.warning("%s; the trial goes on without it", error)
                return CheckpointFailed(reason=str(error), fold=fold, epoch=epoch)
        return CheckpointWritten(path=path, fold=fold, epoch=epoch)

    def _resumed(self, data: TrialData) -> Progress:
        if (directory := self.directory) is None:
            return Progress()
        state = self.workspace.ranks.from_first(lambda: read_newest_checkpoint(directory))
        if state is None:
            return Progress()
        if not is_of(state, *self._names):
            raise CheckpointError(
                "the checkpoint belongs to another trial or another data set",
                where=directory,
                hint="Use another directory, or remove the checkpoints in this one",
            )
        with contents_checked(directory):
            return Progress.unpacked(state)

    @property
    def _names(self) -> tuple[str, str]:
        """What a checkpoint of this trial says it is of."""
        return self.config.hash, self.workspace.store.manifest.digest


def _next_epoch(epoch: int, fold: _Fold) -> int | None:
    """The epoch after one; a stage that is exhausted gives way to the next. None: the fold is done."""
    stage = fold.training.stage_of(epoch)
    if epoch + 1 < stage.end and not fold.best.exhausted:
        return epoch + 1
    return stage.end if stage is not fold.training.stages[-1] else None
