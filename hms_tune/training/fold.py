"""Training one network: the loop itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from timm.utils.model_ema import ModelEmaV3
from torch import Tensor, nn

from hms_tune.config.trial import TrialConfig
from hms_tune.errors import NonFiniteLossError
from hms_tune.models.losses import make_loss
from hms_tune.models.network import Network, build_network
from hms_tune.training.device import autocast
from hms_tune.training.inference import predict_probabilities
from hms_tune.training.optimizers import make_optimizer, set_learning_rate
from hms_tune.training.randomness import counter_generator, counter_seed
from hms_tune.training.schedules import make_schedule
from hms_tune.training.stages import Stage, learning_targets, learning_weights, make_stages
from hms_tune.training.workspace import TrialData


@dataclass(frozen=True, slots=True)
class TrainedEpoch:
    """What an epoch of training came to. ``images`` is how many were learnt from."""

    loss: float
    learning_rate: float
    images: int


class FoldTraining:
    """One network and everything that changes as it learns.

    Parameters
    ----------
    config : the trial
    data : its rows and images
    device : where it computes
    fold : names the fold's random numbers
    train_rows : int64 array, rows to learn from
    """

    def __init__(
        self,
        config: TrialConfig,
        data: TrialData,
        device: torch.device,
        *,
        fold: int,
        train_rows: NDArray[np.int64],
    ) -> None:
        training = config.training
        self.stages = make_stages(training, data.labels, train_rows, where=f"fold {fold}")
        self.config = config
        self.fold = fold
        self._data = data
        self._device = device
        self._updates = 0
        self._targets = torch.from_numpy(learning_targets(training, data.labels)).to(device)
        weights = learning_weights(training, data.labels, train_rows)
        self._weights = None if weights is None else torch.from_numpy(weights).to(device)
        torch.manual_seed(counter_seed(training.seed, "weights", fold))
        network = build_network(config.model, channels=config.input.channels, image=config.input.image)
        self.network: Network = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        groups = self.network.parameter_groups(
            learning_rate=training.learning_rate,
            weight_decay=training.weight_decay,
            backbone_lr_ratio=training.backbone_lr_ratio,
            layer_decay=training.layer_decay,
        )
        self._optimizer = make_optimizer(training.optimizer, groups, device)
        self._schedules = [
            make_schedule(training.scheduler, epochs=stage.epochs, steps_per_epoch=stage.steps_per_epoch)
            for stage in self.stages
        ]
        self._loss = make_loss(training.loss, training.label_smoothing)
        self._average = (
            ModelEmaV3(self.network, decay=training.ema_decay, use_warmup=True)
            if training.ema_decay is not None
            else None
        )

    @property
    def judged_network(self) -> nn.Module:
        """The network that is validated and kept: the moving average where there is one."""
        if self._average is None:
            return self.network
        average: nn.Module = self._average.module
        return average

    def stage_of(self, epoch: int) -> Stage:
        """The stage that an epoch belongs to."""
        return next(stage for stage in self.stages if epoch < stage.end)

    def train_epoch(self, epoch: int) -> TrainedEpoch:
        """Learn once from every row of the epoch's stage (but for the last incomplete batch).

        Raises
        ------
        NonFiniteLossError
            On the CPU before the step that would spoil the weights, on a GPU at the end of the epoch,
            where asking does not hold up the device.
        """
        self.network.train()
        stage = self.stage_of(epoch)
        schedule = self._schedules[stage.number]
        first_step = (epoch - stage.first_epoch) * stage.steps_per_epoch
        total = torch.zeros((), device=self._device)
        learning_rate = 0.0
        for step, rows in enumerate(self._batches(stage, epoch)):
            factor = stage.learning_rate_ratio * schedule.factor(first_step + step)
            learning_rate = set_learning_rate(self._optimizer, factor)
            total += self._train_step(stage, epoch, step, rows)
        loss = float(total) / stage.steps_per_epoch
        self._refuse_non_finite(loss, epoch)
        return TrainedEpoch(loss, learning_rate, stage.steps_per_epoch * stage.batch_size)

    def predict(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Class probabilities of rows, float32 ``(n_rows, 6)``."""
        return predict_probabilities(
            [self.judged_network],
            self._data.images.clean,
            torch.from_numpy(rows),
            training=self.config.training,
            device=self._device,
        )

    def epoch_validated(self, epoch: int, kl: float) -> None:
        """Let the schedule hear how the epoch did."""
        self._schedules[self.stage_of(epoch).number].epoch_ended(kl)

    def state_dict(self) -> dict[str, Any]:
        """Everything that changes as the network learns, on the CPU, to be written before the next step.

        The random numbers are counters and need no keeping.
        """
        return {
            "network": _on_cpu(self.network.state_dict()),
            "average": _on_cpu(self._average.module.state_dict()) if self._average is not None else None,
            "optimizer": _on_cpu(self._optimizer.state_dict()),
            "schedules": [schedule.state_dict() for schedule in self._schedules],
            "updates": self._updates,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from :meth:`state_dict`."""
        self.network.load_state_dict(state["network"])
        if self._average is not None:
            self._average.module.load_state_dict(state["average"])
        self._optimizer.load_state_dict(state["optimizer"])
        for schedule, saved in zip(self._schedules, state["schedules"], strict=True):
            schedule.load_state_dict(saved)
        self._updates = state["updates"]

    def judged_weights(self) -> dict[str, Tensor]:
        """A copy, on the CPU, of the weights that are validated."""
        return {
            name: tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
            for name, tensor in self.judged_network.state_dict().items()
        }

    def _batches(self, stage: Stage, epoch: int) -> list[Tensor]:
        generator = counter_generator(self.config.training.seed, "order", self.fold, epoch)
        order = stage.rows[torch.randperm(len(stage.rows), generator=generator)]
        return list(order.split(stage.batch_size))[: stage.steps_per_epoch]

    def _train_step(self, stage: Stage, epoch: int, step: int, rows: Tensor) -> Tensor:
        training = self.config.training
        counters = (self.fold, epoch, step)
        generator = counter_generator(training.seed, "augmentation", *counters)
        torch.manual_seed(counter_seed(training.seed, "regularization", *counters))
        images, targets, weights = self._augmented(stage, rows, generator)
        with autocast(self._device, training.precision):
            logits = self.network(images.contiguous(memory_format=torch.channels_last))
        loss = self._loss(logits.float(), targets, weights)
        if self._device.type == "cpu":
            self._refuse_non_finite(loss.item(), epoch)
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if training.grad_clip is not None:
            nn.utils.clip_grad_norm_(self.network.parameters(), training.grad_clip)
        self._optimizer.step()
        if self._average is not None:
            self._average.update(self.network, step=self._updates)
        self._updates += 1
        return loss.detach()

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
                mend="Lower training.learning_rate or set training.grad_clip",
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
