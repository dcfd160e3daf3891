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
from hms_tune.errors import DataError, NonFiniteLossError
from hms_tune.models.losses import make_loss
from hms_tune.models.network import Network, build_network
from hms_tune.training.device import autocast
from hms_tune.training.inference import predict_probabilities
from hms_tune.training.optimizers import make_optimizer, set_learning_rate
from hms_tune.training.randomness import counter_generator, counter_seed
from hms_tune.training.schedules import make_schedule
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
        if len(train_rows) < 2:
            raise DataError(
                f"fold {fold} has {len(train_rows)} rows to learn from",
                mend="Add patients, or lower data.folds, data.holdout or data.min_votes",
            )
        training = config.training
        self.config = config
        self.fold = fold
        self._data = data
        self._device = device
        self._rows = torch.from_numpy(train_rows)
        self.batch_size = min(training.batch_size, len(train_rows))
        self.steps_per_epoch = len(train_rows) // self.batch_size
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
        self._schedule = make_schedule(
            training.scheduler, epochs=training.epochs, steps_per_epoch=self.steps_per_epoch
        )
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

    def train_epoch(self, epoch: int) -> TrainedEpoch:
        """Learn once from every row (but for the last incomplete batch), in an order of the epoch's own.

        Raises
        ------
        NonFiniteLossError
            On the CPU before the step that would spoil the weights, on a GPU at the end of the epoch,
            where asking does not hold up the device.
        """
        self.network.train()
        total = torch.zeros((), device=self._device)
        learning_rate = 0.0
        for step, rows in enumerate(self._batches(epoch)):
            learning_rate = set_learning_rate(
                self._optimizer, self._schedule.factor(epoch * self.steps_per_epoch + step)
            )
            total += self._train_step(epoch, step, rows)
        loss = float(total) / self.steps_per_epoch
        self._refuse_non_finite(loss, epoch)
        return TrainedEpoch(loss, learning_rate, self.steps_per_epoch * self.batch_size)

    def predict(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Class probabilities of rows, float32 ``(n_rows, 6)``."""
        return predict_probabilities(
            [self.judged_network],
            self._data.images.clean,
            torch.from_numpy(rows),
            training=self.config.training,
            device=self._device,
        )

    def epoch_validated(self, kl: float) -> None:
        """Let the schedule hear how the epoch did."""
        self._schedule.epoch_ended(kl)

    def state_dict(self) -> dict[str, Any]:
        """Everything that changes as the network learns, on the CPU, to be written before the next step.

        The random numbers are counters and need no keeping.
        """
        return {
            "network": _on_cpu(self.network.state_dict()),
            "average": _on_cpu(self._average.module.state_dict()) if self._average is not None else None,
            "optimizer": _on_cpu(self._optimizer.state_dict()),
            "schedule": self._schedule.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from :meth:`state_dict`."""
        self.network.load_state_dict(state["network"])
        if self._average is not None:
            self._average.module.load_state_dict(state["average"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._schedule.load_state_dict(state["schedule"])

    def judged_weights(self) -> dict[str, Tensor]:
        """A copy, on the CPU, of the weights that are validated."""
        return {
            name: tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
            for name, tensor in self.judged_network.state_dict().items()
        }

    def _batches(self, epoch: int) -> list[Tensor]:
        generator = counter_generator(self.config.training.seed, "order", self.fold, epoch)
        order = self._rows[torch.randperm(len(self._rows), generator=generator)]
        return list(order.split(self.batch_size))[: self.steps_per_epoch]

    def _train_step(self, epoch: int, step: int, rows: Tensor) -> Tensor:
        training = self.config.training
        counters = (self.fold, epoch, step)
        generator = counter_generator(training.seed, "augmentation", *counters)
        torch.manual_seed(counter_seed(training.seed, "regularization", *counters))
        images, targets = self._data.images.augmented(
            rows, self._data.targets[rows.to(self._device)], generator
        )
        with autocast(self._device, training.precision):
            logits = self.network(images.contiguous(memory_format=torch.channels_last))
        loss = self._loss(logits.float(), targets)
        if self._device.type == "cpu":
            self._refuse_non_finite(loss.item(), epoch)
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if training.grad_clip is not None:
            nn.utils.clip_grad_norm_(self.network.parameters(), training.grad_clip)
        self._optimizer.step()
        if self._average is not None:
            self._average.update(self.network, step=epoch * self.steps_per_epoch + step)
        return loss.detach()

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
