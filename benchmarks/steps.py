"""One training step, with the techniques of a row of ``throughput.py``, and what it costs at least."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from hms_tune.config.trial import ModelConfig
from hms_tune.models.layers import layer_groups
from hms_tune.models.losses import make_loss
from hms_tune.models.network import Network, build_network
from hms_tune.training.device import autocast


@dataclass(frozen=True)
class Ways:
    """Which techniques a step uses. ``acceleration``: plain, graphs or compiled."""

    name: str
    tf32: bool = False
    channels_last: bool = False
    bfloat16: bool = False
    fused: bool = False
    acceleration: str = "plain"
    frozen_share: float = 0.0

    @property
    def needs_cuda(self) -> bool:
        """Whether the CPU has nothing of the kind."""
        return self.tf32 or self.acceleration == "graphs"


@dataclass(frozen=True)
class Cell:
    """A backbone on images of a size, in batches of a size."""

    backbone: str
    image: tuple[int, int]
    batch: int


def synchronize(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@contextlib.contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Matrix products and convolutions in TF32, or in full float32."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


class Training:
    """A network that learns one batch over and over."""

    def __init__(self, cell: Cell, ways: Ways, device: torch.device) -> None:
        torch.manual_seed(0)
        self.ways, self.device = ways, device
        torch.backends.cudnn.benchmark = ways.channels_last
        layout = torch.channels_last if ways.channels_last else torch.contiguous_format
        self.network = make_network(cell.backbone, cell.image, ways.frozen_share).to(device)
        self.network = self.network.to(memory_format=layout)
        images = torch.randn(cell.batch, 1, *cell.image, device=device)
        self.images = images.contiguous(memory_format=layout)
        self.targets = torch.rand(cell.batch, 6, device=device).softmax(dim=1)
        self.loss = make_loss("kl")
        cuda = device.type == "cuda"
        self.optimizer = torch.optim.AdamW(
            [parameter for parameter in self.network.parameters() if parameter.requires_grad],
            lr=torch.tensor(1e-4, device=device) if cuda and ways.acceleration != "plain" else 1e-4,
            fused=ways.fused or None,
            capturable=cuda and ways.acceleration != "plain",
        )
        self.through: Callable[[Tensor], Tensor] = self.network
        self.step: Callable[[], object] = self.take_step
        if ways.acceleration == "compiled":
            self.through = torch.compile(self.network)
        if cuda and ways.acceleration != "plain":
            from hms_tune.training.acceleration import CapturedStep

            captured = CapturedStep(lambda _batch: self.take_step(), (self.targets,))
            self.step = lambda: captured((self.targets,))

    def take_step(self) -> Tensor:
        """Forward, loss, backward, update."""
        self.optimizer.zero_grad(set_to_none=True)
        with autocast(self.device, "bfloat16" if self.ways.bfloat16 else "float32"):
            logits = self.through(self.images)
        loss: Tensor = self.loss(logits.float(), self.targets, None)
        loss.backward()
        self.optimizer.step()
        return loss.detach()


@lru_cache(maxsize=256)
def work_of_image(backbone: str, image: tuple[int, int], frozen_share: float) -> tuple[float, float, int]:
    """FLOPs of a training step for one image, elements its layers put out, and trained parameters.

    The backward pass of a trained layer costs twice its forward pass (gradients of weights and of inputs);
    the counter itself is asked for the forward pass alone, for it takes the backward pass of a grouped
    convolution to be that of a full one. Nothing is computed: the network is on the meta device.
    """
    network = make_network(backbone, image, frozen_share).to("meta")
    outputs = 0

    def note(module: nn.Module, _inputs: object, output: object) -> None:
        nonlocal outputs
        if isinstance(output, Tensor) and not list(module.children()):
            outputs += output.numel() // 2

    hooks = [module.register_forward_hook(note) for module in network.modules()]
    with FlopCounterMode(display=False) as counter:
        network(torch.empty(2, 1, *image, device="meta"))
    for hook in hooks:
        hook.remove()
    by_module = {
        name.removeprefix("Network."): sum(spent.values()) / 2
        for name, spent in counter.get_flop_counts().items()
    }
    flops = 0.0
    for name, module in network.named_modules():
        if not list(module.children()):
            trained = any(parameter.requires_grad for parameter in module.parameters())
            flops += by_module.get(name, 0.0) * (3 if trained else 1)
    parameters = sum(each.numel() for each in network.parameters() if each.requires_grad)
    return flops, outputs, parameters


def work_of_step(cell: Cell, ways: Ways) -> tuple[float, float]:
    """FLOPs and estimated bytes of a step."""
    flops, outputs, parameters = work_of_image(cell.backbone, cell.image, ways.frozen_share)
    width = 2 if ways.bfloat16 else 4
    accesses = 4 - 2 * ways.frozen_share  # a frozen layer's output is not needed again; roughly
    return flops * cell.batch, outputs * cell.batch * width * accesses + 28 * parameters


def make_network(backbone: str, image: tuple[int, int], frozen_share: float) -> Network:
    """A network of the product's, the first layers frozen."""
    frozen = round(frozen_share * len(layer_groups(backbone))) if frozen_share else None
    config = ModelConfig(backbone=backbone, pretrained=False, frozen_layers=frozen)
    return build_network(config, channels=1, image=image)
