"""Training one network: the loop itself."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hms_tune.config.trial import TrialConfig
from hms_tune.errors import NonFiniteLossError
from hms_tune.models.network import Network
from hms_tune.training.schedules import make_schedule
from hms_tune.training.stages import Stage, learning_targets, learning_weights, make_stages
from hms_tune.training.step.inference import predict_probabilities
from hms_tune.training.step.learner import Learner
from hms_tune.training.step.random_counters import counter_generator, counter_seed, seed_device
from hms_tune.training.trial_data import TrialData


@dataclass(frozen=True, slots=True)
class TrainedEpoch:
    """What an epoch of training came to. ``images`` is how many were learnt from."""

    loss: float
    learning_rate: float
    images: int


class FoldTraining:
    """One fold of one trial: what it learns from, in which order, at which rates.

    Parameters
    ----------
    config : the trial
    data : its rows and images
    learner : the network that learns; it belongs to this fold until another begins
    fold : names the fold's random numbers
    train_rows : int64 array, rows to learn from
    """

    def __init__(
        self,
        config: TrialConfig,
        data: TrialData,
        learner: Learner,
        *,
        fold: int,
        train_rows: NDArray[np.int64],
    ) -> None:
        training = config.training
        self.stages = make_stages(training, data.labels, train_rows, where=f"fold {fold}")
        self.config = config
        self.fold = fold
        self.learner = learner
        self._data = data
        self._device = learner.device
        self._ranks = learner.ranks
        self._targets = torch.from_numpy(learning_targets(training, data.labels)).to(self._device)
        weights = learning_weights(training, data.labels, train_rows)
        self._weights = None if weights is None else torch.from_numpy(weights).to(self._device)
        steps = sum(stage.epochs * stage.steps_per_epoch for stage in self.stages)
        learner.expect(steps * config.data.trained_folds)
        self._token = learner.begin(fold)
        self._features = self._frozen_features()
        self._schedules = [
            make_schedule(training.scheduler, epochs=stage.epochs, steps_per_epoch=stage.steps_per_epoch)
            for stage in self.stages
        ]

    def stage_of(self, epoch: int) -> Stage:
        """The stage that an epoch belongs to."""
        return next(stage for stage in self.stages if epoch < stage.end)

    def train_epoch(self, epoch: int) -> TrainedEpoch:
        """Learn once from every row of the epoch's stage (but for the last incomplete batch).

        Raises
        ------
        NonFiniteLossError
            On the CPU at once, on a GPU at the end of the epoch, where asking does not hold up the device.
        """
        if self.learner.fold is not self._token:
            raise RuntimeError(f"the network of fold {self.fold} has been lent to another fold since")
        stage = self.stage_of(epoch)
        factors, batches = self._rate_factors(stage, epoch), self._batches(stage, epoch)
        if self._features is None:
            self._data.images.announce(batches, partial(self._generator, epoch))
        self.learner.network.train()
        self.learner.updater.plan(factors)
        total = torch.zeros((), device=self._device)
        for step, rows in enumerate(batches):
            self.learner.updater.set_step(step)
            loss = self._train_step(stage, epoch, step, rows)
            if self._device.type == "cpu":
                self._refuse_non_finite(self._ranks.sum(loss).item(), epoch)
            total += loss
        mean = float(self._ranks.sum(total)) / stage.steps_per_epoch
        self._refuse_non_finite(mean, epoch)
        rate = self.learner.updater.learning_rate(factors[-1])
        return TrainedEpoch(mean, rate, stage.steps_per_epoch * stage.batch_size)

    def predict(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Class probabilities of rows, float32 ``(n_rows, 6)``."""
        mine = torch.from_numpy(rows)[self._ranks.share(len(rows)).rows]
        if self._features is None:
            self._data.images.announce(mine.split(self.config.training.test_batch_size))
        probabilities = predict_probabilities(
            [self._through(self.learner.judged_network)],
            self._data.images.clean if self._features is None else partial(_rows_of, self._features),
            mine,
            training=self.config.training,
            device=self._device,
        )
        return self._ranks.gather_rows(torch.from_numpy(probabilities), len(rows)).numpy()

    def epoch_validated(self, epoch: int, kl: float) -> None:
        """Pass the validation KL of an epoch to the schedule."""
        self._schedules[self.stage_of(epoch).number].epoch_ended(kl)

    def state_dict(self) -> dict[str, Any]:
        """Everything that changes as the network learns, on the CPU, to be written before the next step.

        The random numbers are counters and need no keeping.
        """
        state: dict[str, Any] = _on_cpu(self.learner.state_dict())
        return state | {"schedules": [schedule.state_dict() for schedule in self._schedules]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from :meth:`state_dict`."""
        self.learner.load_state_dict(state)
        for schedule, saved in zip(self._schedules, state["schedules"], strict=True):
            schedule.load_state_dict(saved)

    def judged_weights(self) -> dict[str, Tensor]:
        """A copy, on the CPU, of the weights that are validated."""
        return {
            name: tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
            for name, tensor in self.learner.judged_network.state_dict().items()
        }

    def _rate_factors(self, stage: Stage, epoch: int) -> list[float]:
        """What the largest learning rates are multiplied by at each step of an epoch."""
        schedule = self._schedules[stage.number]
        first_step = (epoch - stage.first_epoch) * stage.steps_per_epoch
        return [
            stage.learning_rate_ratio * schedule.factor(first_step + step)
            for step in range(stage.steps_per_epoch)
        ]

    def _batches(self, stage: Stage, epoch: int) -> list[Tensor]:
        generator = counter_generator(self.config.training.seed, "order", self.fold, epoch)
        order = stage.rows[torch.randperm(len(stage.rows), generator=generator)]
        return list(order.split(stage.batch_size))[: stage.steps_per_epoch]

    def _frozen_features(self) -> tuple[Tensor, ...] | None:
        """What the frozen prefix makes of every row; None where there is no such prefix or images vary."""
        parts = None if self._data.images.vary else self.learner.parts(self.learner.network)
        if parts is None:
            return None
        return self.learner.features.get(self.config, self.fold, parts[0], self._data.images, self._device)

    def _through(self, network: Network) -> nn.Module:
        """What computes logits: the network, or what follows its prefix where features of that are kept."""
        parts = None if self._features is None else self.learner.parts(network)
        return network if parts is None else parts[1]

    def _train_step(self, stage: Stage, epoch: int, step: int, rows: Tensor) -> Tensor:
        """Take one step on this rank's share of a batch; returns its part of the loss."""
        generator = self._generator(epoch, step)
        seed = counter_seed(self.config.training.seed, "regularization", self.fold, epoch, step)
        seed_device(seed, self._device)
        mine = self._ranks.begin_batch(len(rows))
        if self._features is None:
            images, targets, weights = self._augmented(stage, rows, generator)
            images = images[mine].contiguous(memory_format=torch.channels_last)
            weights = None if weights is None else weights[mine]
            return self.learner.learn((images,), targets[mine], weights)
        rows = rows[mine]
        on_device = rows.to(self._device)
        weights = None if self._weights is None or stage.number else self._weights[on_device]
        rest = self._through(self.learner.network)
        return self.learner.learn(
            _rows_of(self._features, rows), self._targets[on_device], weights, through=rest
        )

    def _generator(self, epoch: int, step: int) -> torch.Generator:
        """What the augmentation of a batch draws from."""
        return counter_generator(self.config.training.seed, "augmentation", self.fold, epoch, step)

    def _augmented(
        self, stage: Stage, rows: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Images, targets and weights of a batch.

        The weight rides along as one more column of the targets, so that what mixes targets mixes it too.
        """
        on_device = rows.to(self._device)
        targets = self._targets[on_device]
        if self._weights is None or stage.number > 0:
            return *self._data.images.augmented(rows, targets, generator), None
        weighted = torch.cat([targets, self._weights[on_device, None]], dim=1)
        images, weighted = self._data.images.augmented(rows, weighted, generator)
        return images, weighted[:, :-1], weighted[:, -1]

    def _refuse_non_finite(self, loss: float, epoch: int) -> None:
        if not np.isfinite(loss):
            raise NonFiniteLossError(
                f"the loss became {loss} (learning rate {self.config.training.learning_rate:g})",
                where=f"fold {self.fold}, epoch {epoch}",
                hint="Lower training.learning_rate or set training.grad_clip",
            )


def _rows_of(features: tuple[Tensor, ...], rows: Tensor) -> tuple[Tensor, ...]:
    return tuple(
        feature[rows.to(feature.device)].contiguous(memory_format=torch.channels_last)
        if feature.ndim == 4
        else feature[rows.to(feature.device)]
        for feature in features
    )


def _on_cpu(tree: Any) -> Any:
    """A nested state with every tensor on the CPU."""
    if isinstance(tree, Tensor):
        return tree.detach().cpu()
    if isinstance(tree, dict):
        return {key: _on_cpu(value) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return type(tree)(_on_cpu(value) for value in tree)
    return tree
