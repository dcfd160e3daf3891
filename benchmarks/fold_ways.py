"""Ways to train the folds of a trial together, for ``fused_folds.py``: each takes a step of all of them."""

from __future__ import annotations

import contextlib
import copy
from dataclasses import dataclass
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap


@dataclass(frozen=True)
class Task:
    """What every fold trains."""

    backbone: str
    image: tuple[int, int]
    batch: int

    def network(self, fold: int) -> nn.Module:
        """The network of a fold, with weights of its own."""
        torch.manual_seed(fold)
        return timm.create_model(self.backbone, pretrained=False, in_chans=1, num_classes=6)

    def data(self, fold: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Images and targets of a fold."""
        generator = torch.Generator().manual_seed(fold)
        images = torch.randn(self.batch, 1, *self.image, generator=generator)
        targets = torch.randn(self.batch, 6, generator=generator).softmax(dim=1)
        return images.to(device), targets.to(device)


def kl(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean over the batch of the KL divergence."""
    shares = targets * (targets.log() - logits.float().log_softmax(dim=-1))
    return shares.sum(-1).mean(-1)


def precise(device: torch.device) -> Any:
    """The autocast of the device."""
    return torch.autocast("cuda", torch.bfloat16) if device.type == "cuda" else contextlib.nullcontext()


def adamw(parameters: Any, device: torch.device) -> torch.optim.Optimizer:
    """The same optimizer everywhere, in a form that a graph can capture."""
    return torch.optim.AdamW(parameters, lr=1e-3, fused=True, capturable=device.type == "cuda")


class OneAfterAnother:
    """A step of each fold in turn."""

    def __init__(self, task: Task, folds: range, device: torch.device) -> None:
        layout: Any = torch.channels_last
        self.device = device
        self.networks = [task.network(fold).to(device, memory_format=layout) for fold in folds]
        self.optimizers = [adamw(network.parameters(), device) for network in self.networks]
        self.data = [task.data(fold, device) for fold in folds]

    def step(self) -> Tensor:
        """Losses (folds,)."""
        losses = []
        for network, optimizer, (images, targets) in zip(
            self.networks, self.optimizers, self.data, strict=True
        ):
            optimizer.zero_grad(set_to_none=True)
            with precise(self.device):
                logits = network(images.contiguous(memory_format=torch.channels_last))
            loss = kl(logits, targets)
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
        return torch.stack(losses)


class FoldLinear(nn.Module):
    """One linear layer for each fold: (batch, folds · inputs) to (batch, folds · outputs)."""

    def __init__(self, layers: list[nn.Linear]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.stack([layer.weight.detach() for layer in layers]))
        self.bias = nn.Parameter(torch.stack([layer.bias.detach() for layer in layers]))

    def forward(self, features: Tensor) -> Tensor:
        """Apply each fold's layer to its own features."""
        folds, _, inputs = self.weight.shape
        split = features.reshape(-1, folds, inputs)
        return torch.einsum("bfi,foi->bfo", split, self.weight.to(split.dtype)).add(self.bias).flatten(1)


def grouped(networks: list[nn.Module]) -> nn.Module:
    """One network that computes all of them side by side, channels after channels."""
    whole = copy.deepcopy(networks[0])
    many = [dict(network.named_modules()) for network in networks]
    n_folds = len(networks)
    for name, module in list(whole.named_modules()):
        each: list[Any] = [modules[name] for modules in many]
        if isinstance(module, nn.Conv2d):
            module.groups, module.in_channels = module.groups * n_folds, module.in_channels * n_folds
            module.out_channels *= n_folds
            _concatenate(module, each, ("weight", "bias"))
        elif isinstance(module, nn.BatchNorm2d):
            module.num_features *= n_folds
            _concatenate(module, each, ("weight", "bias", "running_mean", "running_var"))
        elif isinstance(module, nn.Linear):
            parent, _, last = name.rpartition(".")
            setattr(whole.get_submodule(parent), last, FoldLinear(each))
    return whole


def _concatenate(module: nn.Module, each: list[nn.Module], names: tuple[str, ...]) -> None:
    for name in names:
        value = getattr(module, name)
        if value is not None:
            joined = torch.cat([getattr(one, name).detach() for one in each])
            setattr(module, name, nn.Parameter(joined) if isinstance(value, nn.Parameter) else joined)


class Grouped:
    """One network with K times the groups."""

    def __init__(self, task: Task, folds: range, device: torch.device) -> None:
        layout: Any = torch.channels_last
        self.device, self.n_folds = device, len(folds)
        self.network = grouped([task.network(fold) for fold in folds]).to(device, memory_format=layout)
        self.optimizer = adamw(self.network.parameters(), device)
        data = [task.data(fold, device) for fold in folds]
        images = torch.cat([images for images, _ in data], dim=1)
        self.images = images.contiguous(memory_format=torch.channels_last)
        self.targets = torch.stack([targets for _, targets in data])

    def step(self) -> Tensor:
        """Losses (folds,)."""
        self.optimizer.zero_grad(set_to_none=True)
        with precise(self.device):
            logits = self.network(self.images)
        losses = kl(logits.unflatten(1, (self.n_folds, 6)).transpose(0, 1), self.targets)
        losses.sum().backward()
        self.optimizer.step()
        return losses.detach()


class Mapped:
    """torch.func.vmap over the folds' weights, stacked."""

    def __init__(self, task: Task, folds: range, device: torch.device) -> None:
        networks = [task.network(fold).to(device) for fold in folds]
        self.device, self.network = device, copy.deepcopy(networks[0])
        weights, self.buffers = stack_module_state(networks)
        self.weights = {name: value.detach().requires_grad_() for name, value in weights.items()}
        self.optimizer = adamw(self.weights.values(), device)
        data = [task.data(fold, device) for fold in folds]
        self.images = torch.stack([images for images, _ in data])
        self.targets = torch.stack([targets for _, targets in data])

    def step(self) -> Tensor:
        """Losses (folds,)."""

        def loss(weights: Any, buffers: Any, images: Tensor, targets: Tensor) -> Tensor:
            return kl(functional_call(self.network, (weights, buffers), (images,)), targets)

        self.optimizer.zero_grad(set_to_none=True)
        with precise(self.device):
            losses = vmap(loss)(self.weights, self.buffers, self.images, self.targets)
        losses.sum().backward()
        self.optimizer.step()
        return losses.detach()


WAYS: dict[str, type[OneAfterAnother | Grouped | Mapped]] = {
    "one after another": OneAfterAnother,
    "grouped": Grouped,
    "vmap": Mapped,
}
