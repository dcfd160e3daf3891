"""One training step, the product's own or that of a bare PyTorch loop, and what it costs at least."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import torch
from device_limits import synchronize
from notebook import HMSModel
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from hms_tune.config.acceleration import Acceleration, AccelerationSettings
from hms_tune.config.image_layout import ModelInput
from hms_tune.config.trial import Precision, TrialConfig
from hms_tune.machine.device import autocast, computes_in_bfloat16, prepare_device
from hms_tune.models.layers import layer_groups
from hms_tune.models.network import build_network
from hms_tune.training.step.learner import Learners


@dataclass(frozen=True)
class Way:
    """How steps are taken.

    Attributes
    ----------
    name : in the table
    bare : by a PyTorch loop without any of the product
    precision, acceleration : the product's own switches ``training.precision`` and ``--acceleration``
    channels_last, fused : the product always has them; False undoes them in its network and optimizer
    frozen : whether the first half of the layers is (``model.frozen_layers``)
    kept : whether what the frozen layers make of the images is kept, as the product does without
        augmentation
    """

    name: str
    bare: bool = False
    precision: Precision = "auto"
    acceleration: Acceleration = "auto"
    channels_last: bool = True
    fused: bool = True
    frozen: bool = False
    kept: bool = False

    def rate(self, device: torch.device) -> str:
        """The precision that bounds its products."""
        if computes_in_bfloat16(device, self.precision):
            return "bfloat16"
        return "tf32" if self.precision == "tf32" and device.type == "cuda" else "float32"


@dataclass(frozen=True)
class Cell:
    """A backbone on images of a size, in batches of a size."""

    backbone: str
    image: tuple[int, int]
    batch: int

    def __str__(self) -> str:
        return f"{self.backbone} {self.image[0]}×{self.image[1]} batch {self.batch}"

    def config(self, *, precision: Precision = "auto", frozen: bool = False) -> TrialConfig:
        """A trial of this shape."""
        layers = len(layer_groups(self.backbone)) // 2 if frozen else None
        return TrialConfig.model_validate(
            {
                "input": {"image": list(self.image), "channels": 1},
                "model": {"backbone": self.backbone, "pretrained": False, "frozen_layers": layers},
                "training": {"batch_size": self.batch, "precision": precision},
            }
        )


class Training(Protocol):
    """Something that learns one batch over and over."""

    def prepare(self) -> None:
        """Set what is global to the process."""

    def step(self) -> object:
        """Forward, loss, backward, update; without waiting for the device."""


def training_of(cell: Cell, way: Way, device: torch.device) -> Training:
    """What trains a cell in a way."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(cell.batch, 1, *cell.image, generator=generator).to(device)
    targets = torch.rand(cell.batch, 6, generator=generator).softmax(dim=1).to(device)
    return (Bare if way.bare else Ours)(cell, way, images, targets)


class Bare:
    """The loop of a notebook without what holds it up: no loader, no ``.item()``, no scheduler, no scaler.

    It has PyTorch's defaults for all but the precision, which is that of the product.
    """

    def __init__(self, cell: Cell, way: Way, images: Tensor, targets: Tensor) -> None:
        torch.manual_seed(0)
        self._device, self._precision = images.device, way.precision
        self._images, self._targets = images, targets
        self._model = HMSModel(cell.backbone, 0.0).to(images.device).train()
        self._optimizer = torch.optim.AdamW(self._model.parameters(), lr=1e-4, weight_decay=0.01)

    def prepare(self) -> None:
        """Put PyTorch's defaults back."""
        torch.backends.cudnn.benchmark = False
        torch.backends.cudnn.allow_tf32 = True
        torch.backends.cuda.matmul.allow_tf32 = False

    def step(self) -> object:
        """As every tutorial has it."""
        self._optimizer.zero_grad()
        with autocast(self._device, self._precision):
            logits = self._model(self._images)
        loss = functional.kl_div(logits.float().log_softmax(dim=1), self._targets, reduction="batchmean")
        loss.backward()
        self._optimizer.step()
        return loss


class Ours:
    """:class:`~hms_tune.training.step.learner.Learner`, as a fold uses it."""

    def __init__(self, cell: Cell, way: Way, images: Tensor, targets: Tensor) -> None:
        self._device, self._precision = images.device, way.precision
        self._targets = targets
        config = cell.config(precision=way.precision, frozen=way.frozen)
        learner = Learners(images.device, AccelerationSettings(way.acceleration)).lend(config)
        learner.begin(0)
        learner.network.train()
        learner.updater.plan([1.0])
        if not way.channels_last:
            learner.network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        if not way.fused:  # there is no switch, for it always pays
            for group in learner.updater._optimizer.param_groups:
                group["fused"] = False
        self._learner = learner
        self._inputs: tuple[Tensor, ...] = (images,)
        self._through: nn.Module | None = None
        if way.kept:
            parts = learner.parts(learner.network)
            if parts is None:
                raise RuntimeError("no frozen prefix can be cut off")
            with autocast(self._device, way.precision):
                self._inputs, self._through = parts[0](images), parts[1]

    def prepare(self) -> None:
        """As the product does when a learner is made."""
        prepare_device(self._device, self._precision)

    def step(self) -> object:
        """What a fold does for each batch, once its images are there."""
        self._learner.updater.set_step(0)
        return self._learner.learn(self._inputs, self._targets, None, through=self._through)


def race(
    trainings: list[Training], device: torch.device, *, seconds: float, rounds: int
) -> list[list[float]]:
    """Seconds of a step of each in each round; they take turns, so that what disturbs meets all alike."""
    steps = []
    for training in trainings:
        training.prepare()
        _timed(training.step, 2, device)  # whatever is made at first use
        steps.append(max(1, round(seconds / rounds / _timed(training.step, 1, device))))
    spent: list[list[float]] = [[] for _ in trainings]
    for number in range(rounds):
        for turn in range(len(trainings)):
            place = (turn + number) % len(trainings)
            trainings[place].prepare()
            spent[place].append(_timed(trainings[place].step, steps[place], device))
    return spent


def _timed(step: Callable[[], object], times: int, device: torch.device) -> float:
    """Seconds of one of several steps."""
    synchronize(device)
    began = time.perf_counter()
    for _ in range(times):
        step()
    synchronize(device)
    return (time.perf_counter() - began) / times


@dataclass(frozen=True)
class Work:
    """What an image costs: FLOPs of the forward pass and elements put out, by frozen and trained layers, and
    how many parameters are trained."""

    frozen_flops: float
    trained_flops: float
    frozen_outputs: int
    trained_outputs: int
    parameters: int


@lru_cache(maxsize=256)
def work_of_image(backbone: str, image: tuple[int, int], frozen: bool) -> Work:
    """Count it; nothing is computed, for the network is on the meta device.

    Only the forward pass is counted: the counter takes the backward pass of a grouped convolution to be that
    of a full one.
    """
    config = Cell(backbone, image, 2).config(frozen=frozen).model
    with torch.device("meta"):
        network = build_network(config, ModelInput(1, image))
    trained = {
        name for name, module in network.named_modules() if any(each.requires_grad for each in _own(module))
    }
    outputs = {True: 0, False: 0}
    last = [False]
    hooks = []
    for name, module in network.named_modules():
        if not list(module.children()):

            def note(module: nn.Module, _inputs: object, output: object, name: str = name) -> None:
                if isinstance(output, Tensor):
                    # What has no parameters belongs to what comes before it.
                    last[0] = name in trained if list(module.parameters()) else last[0]
                    outputs[last[0]] += output.numel() // 2

            hooks.append(module.register_forward_hook(note))
    with FlopCounterMode(display=False) as counter:
        network(torch.empty(2, 1, *image, device="meta"))
    for hook in hooks:
        hook.remove()
    flops = {True: 0.0, False: 0.0}
    counts = counter.get_flop_counts()
    for name, module in network.named_modules():
        if not list(module.children()):
            flops[name in trained] += sum(counts.get(f"Network.{name}", {}).values()) / 2
    parameters = sum(each.numel() for each in network.parameters() if each.requires_grad)
    return Work(flops[False], flops[True], outputs[False], outputs[True], parameters)


def _own(module: nn.Module) -> list[nn.Parameter]:
    return list(module.parameters(recurse=False))


def work_of_step(cell: Cell, way: Way, device: torch.device) -> tuple[float, float]:
    """FLOPs and estimated bytes of a step; the benchmark's docstring says how."""
    work = work_of_image(cell.backbone, cell.image, way.frozen)
    first = 0.0 if way.kept else 1.0
    flops = 3 * work.trained_flops + first * work.frozen_flops
    width = 2 if way.rate(device) == "bfloat16" else 4
    moved = width * (4 * work.trained_outputs + first * 2 * work.frozen_outputs)
    return cell.batch * flops, cell.batch * moved + 28 * work.parameters
