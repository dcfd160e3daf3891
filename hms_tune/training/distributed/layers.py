"""Layers that look at, or draw for, the whole batch although this process holds a share of it.

BatchNorm takes its statistics over the batch of all ranks: torch's synchronised layers on CUDA, and here
ones that also run on the CPU. Dropout and stochastic depth draw the masks of the whole batch on every rank
and use their rows, so that the masks do not depend on the number of ranks. Only layers that a backbone brings
of itself and no configuration reaches (dropout inside of attention, say) draw for their share alone.
"""

from __future__ import annotations

from typing import Any

import torch
from timm.layers.norm_act import BatchNormAct2d, convert_sync_batchnorm
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from hms_tune.errors import ModelError
from hms_tune.models.dropout import Dropout, DropPath
from hms_tune.training.distributed.ranks import ProcessRanks


class _OfBatch:
    """What a layer knows of the batch."""

    ranks: ProcessRanks

    def _rows(self, held: Tensor) -> tuple[int, slice]:
        """Length of the whole batch along the first axis, which may be folded with others, and our part."""
        share = self.ranks.batch
        per_row = len(held) // (share.stop - share.start)
        return share.size * per_row, slice(share.start * per_row, share.stop * per_row)


class SharedDropout(_OfBatch, Dropout):
    """Dropout with the mask that one device would draw."""

    def forward(self, features: Tensor) -> Tensor:
        """Zero some features, scale the others."""
        if not (self.training and self.active):
            return features
        size, mine = self._rows(features)
        whole = torch.empty((size, *features.shape[1:]), device=features.device)
        if features.ndim == 4 and features.is_contiguous(memory_format=torch.channels_last):
            whole = whole.contiguous(memory_format=torch.channels_last)
        return features * self._kept(torch.rand_like(whole)[mine]).to(features.dtype)


class SharedDropPath(_OfBatch, DropPath):
    """Stochastic depth with the marks that one device would draw."""

    def forward(self, branch: Tensor) -> Tensor:
        """Zero some samples, scale the others."""
        if not (self.training and self.active):
            return branch
        size, mine = self._rows(branch)
        draws = torch.rand((size, *[1] * (branch.ndim - 1)), device=branch.device)
        return branch * self._kept(draws[mine]).to(branch.dtype)


class _SharedStatistics(_OfBatch, _BatchNorm):
    """BatchNorm over the batch of all ranks, on any device."""

    def forward(self, features: Tensor) -> Tensor:
        """Normalize as the layer would on one device.

        Parameters
        ----------
        features : float tensor, shape (batch, channels, …); statistics are taken in float32
        """
        if not self.training:
            return _BatchNorm.forward(self, features)
        share = self.ranks.batch
        count = features.numel() // features.shape[1] // (share.stop - share.start) * share.size
        over = [axis for axis in range(features.ndim) if axis != 1]
        across = (1, -1, *[1] * (features.ndim - 2))
        with torch.autocast(features.device.type, enabled=False):
            values = features.float()
            mean = self.ranks.sum_through(values.sum(over)) / count
            centred = values - mean.view(across)
            variance = self.ranks.sum_through(centred.square().sum(over)) / count
            self._remember(mean.detach(), variance.detach() * (count / max(count - 1, 1)))
            normal = centred * (variance + self.eps).rsqrt().view(across)
            if self.weight is not None:
                normal = normal * self.weight.view(across) + self.bias.view(across)
        return normal.to(features.dtype)

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        momentum = 1.0 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), momentum)
        self.running_var.lerp_(variance.to(self.running_var.dtype), momentum)


class SharedBatchNorm1d(_SharedStatistics, nn.BatchNorm1d):
    """BatchNorm over two- or three-dimensional features of all ranks."""


class SharedBatchNorm2d(_SharedStatistics, nn.BatchNorm2d):
    """BatchNorm over images of all ranks."""


class SharedBatchNormAct2d(_SharedStatistics, BatchNormAct2d):
    """timm's BatchNorm with an activation, over images of all ranks."""

    def forward(self, features: Tensor) -> Tensor:
        """Normalize, then drop and activate."""
        activated: Tensor = self.act(self.drop(super().forward(features)))
        return activated


_DRAWING: dict[type[nn.Module], type[_OfBatch]] = {Dropout: SharedDropout, DropPath: SharedDropPath}
_NORMALIZING: dict[type[nn.Module], type[_OfBatch]] = {
    nn.BatchNorm1d: SharedBatchNorm1d,
    nn.BatchNorm2d: SharedBatchNorm2d,
    BatchNormAct2d: SharedBatchNormAct2d,
}


def share_layers(network: nn.Module, ranks: ProcessRanks) -> None:
    """Let a network in training mode, where it holds a share of the batch, compute as on one device.

    Layers keep their identity, parameters and names; only on CUDA are BatchNorms replaced by torch's
    synchronised ones, which own the same parameters. Frozen layers are in evaluation mode and stay.

    Raises
    ------
    ModelError
        If the network has a layer with batch statistics that cannot be shared.
    """
    for name, module in list(network.named_modules()):
        if not module.training:
            continue
        shared = _DRAWING.get(type(module)) or _NORMALIZING.get(type(module))
        if type(module) in _NORMALIZING and ranks.device.type == "cuda":
            parent, _, attribute = name.rpartition(".")
            setattr(network.get_submodule(parent), attribute, convert_sync_batchnorm(module))  # type: ignore[no-untyped-call]
        elif shared is not None:
            layer: Any = module
            layer.__class__ = shared
            layer.ranks = ranks
        elif isinstance(module, _OfBatch | nn.SyncBatchNorm):
            continue
        elif "running_var" in dict(module.named_buffers(recurse=False)):
            raise ModelError(
                f"the statistics of {type(module).__name__} cannot be shared by several ranks",
                where=name,
                hint="Use --ranks-per-trial 1 for this backbone",
            )
