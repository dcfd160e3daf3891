"""A network and its optimizer as one step: batch in, loss out, weights changed.

A learner holds nothing of a fold but the numbers in its tensors, so that one serves all folds of a trial and
all trials of the same shape, and its step can be captured once.
"""

from __future__ import annotations

import gc
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from hms_tune.config.acceleration import AccelerationSettings
from hms_tune.config.trial import TrialConfig
from hms_tune.machine.device import autocast, prepare_device
from hms_tune.models.frozen_prefix import FrozenPrefix, TrainedRest, cut
from hms_tune.models.losses import make_loss
from hms_tune.models.network import Network
from hms_tune.training.distributed.ranks import ALONE, Ranks
from hms_tune.training.step.acceleration import Accelerator, Batch
from hms_tune.training.step.features import FeatureCache
from hms_tune.training.step.networks import Networks, architecture_key, put_weights
from hms_tune.training.step.optimizers import make_updater
from hms_tune.training.step.weight_average import MovingAverage


def learner_key(config: TrialConfig) -> str:
    """What a learner is made from; trials of equal keys differ in numbers that can be changed in place."""
    training = config.training
    fixed = {
        "optimizer": training.optimizer.model_dump(mode="json"),
        "loss": training.loss,
        "label_smoothing": training.label_smoothing,
        "grad_clip": training.grad_clip,
        "average": training.ema_decay is not None,
        "precision": training.precision,
    }
    return json.dumps([architecture_key(config), fixed], sort_keys=True)


class Learner:
    """One step of learning, and everything that it changes.

    Parameters
    ----------
    config : the trial
    networks : lends the network
    features : keeps what the frozen prefix makes of the rows
    acceleration : how steps may be run
    """

    def __init__(
        self,
        config: TrialConfig,
        networks: Networks,
        features: FeatureCache,
        acceleration: AccelerationSettings,
    ) -> None:
        self.features = features
        self.device = networks.device
        self.ranks = networks.ranks
        prepare_device(self.device, config.training.precision)
        self.network: Network = networks.lend(config)
        self.updater = make_updater(config.training.optimizer, self._groups(config), self.device)
        self.fold: object = None
        self._config = config
        self._networks = networks
        self._average = MovingAverage(self.network, decay) if (decay := config.training.ema_decay) else None
        self._loss = make_loss(config.training.loss, config.training.label_smoothing)
        self._parts: dict[nn.Module, tuple[FrozenPrefix, TrainedRest] | None] = {}
        if not self.updater.capturable:
            acceleration = AccelerationSettings("plain")
        self._accelerator = Accelerator(acceleration, self.device, name=learner_key(config))
        self._updates = 0

    @property
    def judged_network(self) -> Network:
        """The network that is validated and kept: the moving average where there is one."""
        return self.network if self._average is None else self._average.network

    def adopt(self, config: TrialConfig) -> bool:
        """Serve another trial of the same key; False where its parameters are grouped otherwise."""
        network = self._networks.lend(config)
        groups = self._groups(config)
        if network is not self.network or not self.updater.fits(groups):
            return False
        self.updater.set_peaks(groups)
        self._config = config
        return True

    def begin(self, fold: int) -> object:
        """Start a fold: its first weights, no moments, no average.

        Returns
        -------
        a token, equal to :attr:`fold` until another fold begins
        """
        self.fold = object()
        self._networks.start(self._config, fold, self.network)
        self.updater.reset()
        self._updates = 0
        if self._average is not None:
            self._average.decay = self._config.training.ema_decay or 0.0
            self._average.reset()
        return self.fold

    def retire(self) -> None:
        """End the fold in progress and drop captured steps, so that their memory is free."""
        self.fold = None
        self._accelerator.forget()

    def parts(self, network: Network) -> tuple[FrozenPrefix, TrainedRest] | None:
        """The frozen prefix of the network, or of its average, and what follows it; None without one."""
        if network not in self._parts:
            self._parts[network] = cut(network)
        return self._parts[network]

    def expect(self, steps: int) -> None:
        """Set about how many steps a trial takes; see :meth:`Accelerator.expect`."""
        self._accelerator.expect(steps)

    def learn(
        self,
        inputs: tuple[Tensor, ...],
        targets: Tensor,
        weights: Tensor | None,
        *,
        through: nn.Module | None = None,
    ) -> Tensor:
        """Take one step with the rates in force.

        Parameters
        ----------
        inputs : images, float (batch, channels, height, width), alone; or what ``through`` takes
        targets : float tensor, shape (batch, n_classes)
        weights : float tensor, shape (batch,), or None
        through : the network where it is None, or what follows its frozen prefix

        Returns
        -------
        the loss, on the device, or this rank's part of it; it may change with the next step
        """
        loss = self._accelerator(
            self._step, through or self.network, (targets, weights, *inputs), self._unchanged
        )
        if self._average is not None:
            self._average.update(self._updates)
        self._updates += 1
        return loss

    def state_dict(self) -> dict[str, Any]:
        """Everything that steps change, where it is."""
        return {
            "network": self.network.state_dict(),
            "average": self._average.network.state_dict() if self._average is not None else None,
            "optimizer": self.updater.state_dict(),
            "updates": self._updates,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from :meth:`state_dict`, in place."""
        put_weights(self.network, state["network"])
        if self._average is not None:
            put_weights(self._average.network, state["average"])
        self.updater.load_state_dict(state["optimizer"])
        self._updates = state["updates"]

    def _step(self, model: nn.Module, batch: Batch) -> Tensor:
        training = self._config.training
        targets, weights, *inputs = batch
        assert targets is not None
        self.updater.zero_grad()
        with autocast(self.device, training.precision):
            logits = model(*inputs)
        loss = self.ranks.part_of_mean(self._loss(logits.float(), targets, weights))
        loss.backward()
        self.ranks.sum_gradients(self.network)
        if training.grad_clip is not None:
            nn.utils.clip_grad_norm_(self.network.parameters(), training.grad_clip)
        self.updater.step()
        return loss.detach()

    def _groups(self, config: TrialConfig) -> list[dict[str, Any]]:
        training = config.training
        return self.network.parameter_groups(
            learning_rate=training.learning_rate,
            weight_decay=training.weight_decay,
            backbone_lr_ratio=training.backbone_lr_ratio,
            layer_decay=training.layer_decay,
        )

    @contextmanager
    def _unchanged(self) -> Iterator[None]:
        """Steps in here leave no trace: neither in what is learnt nor in the random numbers.

        What was is kept in the host's memory; the device's has been planned without it.
        """
        weights = {name: tensor.to("cpu", copy=True) for name, tensor in self.network.state_dict().items()}
        moments = self.updater.kept_aside()
        with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):
            yield
        put_weights(self.network, weights)
        self.updater.load_state_dict(moments)


class Learners:
    """The learner of a slot; the next trial has it again if only numbers differ.

    Parameters
    ----------
    device : where it computes
    acceleration : how its steps may be run; several ranks run them plainly, for they meet within a step
    ranks : the processes that share its batches
    """

    def __init__(
        self,
        device: torch.device,
        acceleration: AccelerationSettings | None = None,
        ranks: Ranks = ALONE,
    ) -> None:
        together = AccelerationSettings("plain") if ranks.size > 1 else None
        self.acceleration = together or acceleration or AccelerationSettings()
        self.features = FeatureCache()
        self._networks = Networks(device, ranks)
        self._key: str | None = None
        self._learner: Learner | None = None

    def lend(self, config: TrialConfig) -> Learner:
        """The learner for a trial. A fold that had it before must not train on with it."""
        key = learner_key(config)
        if self._learner is None or key != self._key or not self._learner.adopt(config):
            self._retire()  # its memory, before another takes as much
            self._key = key
            self._learner = Learner(config, self._networks, self.features, self.acceleration)
        return self._learner

    def forget(self) -> bool:
        """Free the memory of learner, networks and features; False where there is nothing to free."""
        if self._key is None:
            return False
        device, ranks = self._networks.device, self._networks.ranks
        self._retire()
        self._key = None
        self.features, self._networks = FeatureCache(), Networks(device, ranks)
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
        return True

    def _retire(self) -> None:
        if self._learner is not None:
            self._learner.retire()
        self._learner = None
