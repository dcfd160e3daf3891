"""Dropout and stochastic depth whose rates are tensors.

The rate of torch's and timm's own modules is a Python number, which a captured CUDA graph or a compiled
network holds for good. Here it is a buffer: one network serves every rate that a search tries.
"""

from __future__ import annotations

import torch
from timm.layers.drop import DropPath as TimmDropPath
from torch import Tensor, nn


class Dropping(nn.Module):
    """What both have in common: a rate in [0, 1), and whether it is above 0."""

    rate: Tensor

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.register_buffer("rate", torch.tensor(float(rate)), persistent=False)
        self.active = rate > 0.0

    def set_rate(self, rate: float) -> None:
        """Change the rate in place."""
        self.rate.fill_(rate)
        self.active = rate > 0.0

    def _kept(self, draws: Tensor) -> Tensor:
        """1 / (1 − rate) where a draw is kept, 0 elsewhere; in the dtype of the draws."""
        return (draws >= self.rate).to(draws.dtype) / (1.0 - self.rate)


class Dropout(Dropping):
    """Zero single features in training, and scale the others so that the mean stays."""

    def forward(self, features: Tensor) -> Tensor:
        """Any shape; the same shape comes back."""
        if not (self.training and self.active):
            return features
        return features * self._kept(torch.rand_like(features, dtype=torch.float32)).to(features.dtype)


class DropPath(Dropping):
    """Zero a residual branch of some samples in training (Huang et al., ECCV 2016).

    Parameters
    ----------
    rate : the rate of this branch
    share : the rate over that of the deepest branch, which is the network's
    """

    def __init__(self, rate: float, share: float) -> None:
        super().__init__(rate)
        self.share = share

    def forward(self, branch: Tensor) -> Tensor:
        """Batch first; the same shape comes back."""
        if not (self.training and self.active):
            return branch
        draws = torch.rand((len(branch), *[1] * (branch.ndim - 1)), device=branch.device)
        return branch * self._kept(draws).to(branch.dtype)


def replace_drop_paths(backbone: nn.Module, drop_path: float) -> None:
    """Put :class:`DropPath` where timm has put its own, with the same rates."""
    for parent in list(backbone.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, TimmDropPath) and child.drop_prob:
                setattr(parent, name, DropPath(child.drop_prob, child.drop_prob / drop_path))


def set_drop_rates(network: nn.Module, *, dropout: float, drop_path: float) -> None:
    """Give a network other rates of dropout and stochastic depth, in place."""
    for module in network.modules():
        if isinstance(module, DropPath):
            module.set_rate(module.share * drop_path)
        elif isinstance(module, Dropout):
            module.set_rate(dropout)
