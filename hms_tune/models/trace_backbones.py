"""Backbones that read traces, not images. They are small, and begin with random weights.

Each takes (batch, traces, samples) and returns a feature map. Their filters are as long as their sources have
them in seconds, whatever the sampling rate of the traces.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import get_args

import torch
from timm.layers.drop import DropPath
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.nn import functional

from hms_tune.config.image_layout import TracePlace
from hms_tune.config.trial import TraceBackbone


class EEGNet(nn.Module):
    """A temporal, a spatial and a separable convolution (Lawhern et al., J. Neural Eng. 15, 056013, 2018).

    The filters' lengths in seconds are the source's; there are four times as many as in its EEGNet-8,2, for
    six classes and eighteen traces.
    """

    TEMPORAL, PER_FILTER = 32, 2
    """Temporal filters, and spatial ones on each."""
    TEMPORAL_SECONDS, SEPARABLE_SECONDS = 0.5, 0.5
    POOLED = (4, 8)

    def __init__(self, place: TracePlace) -> None:
        super().__init__()
        width = self.TEMPORAL * self.PER_FILTER
        self.num_features = width
        kernel = _odd(self.TEMPORAL_SECONDS * place.sfreq)
        self.temporal = nn.Sequential(
            nn.Conv2d(1, self.TEMPORAL, (1, kernel), padding="same", bias=False),
            nn.BatchNorm2d(self.TEMPORAL),
        )
        self.spatial = nn.Sequential(
            nn.Conv2d(self.TEMPORAL, width, (place.traces, 1), groups=self.TEMPORAL, bias=False),
            nn.BatchNorm2d(width),
            nn.ELU(),
            nn.AvgPool2d((1, self.POOLED[0])),
        )
        kernel = _odd(self.SEPARABLE_SECONDS * place.sfreq / self.POOLED[0])
        self.separable = nn.Sequential(
            nn.Conv2d(width, width, (1, kernel), padding="same", groups=width, bias=False),
            nn.Conv2d(width, width, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ELU(),
            nn.AvgPool2d((1, self.POOLED[1])),
        )

    def forward(self, traces: Tensor) -> Tensor:
        """From (batch, traces, samples) to (batch, width, 1, places)."""
        features: Tensor = self.separable(self.spatial(self.temporal(traces.unsqueeze(1))))
        return features


class ResidualBlock(nn.Module):
    """Two dilated convolutions beside a shortcut (He et al., CVPR 2016, in one dimension)."""

    KERNEL = 7

    def __init__(self, width_in: int, width: int, *, stride: int, dilation: int, drop_path: float) -> None:
        super().__init__()
        spread = dilation * (self.KERNEL // 2)
        self.branch = nn.Sequential(
            nn.Conv1d(
                width_in, width, self.KERNEL, stride=stride, padding=spread, dilation=dilation, bias=False
            ),
            nn.BatchNorm1d(width),
            nn.SiLU(),
            nn.Conv1d(width, width, self.KERNEL, padding=spread, dilation=dilation, bias=False),
            nn.BatchNorm1d(width),
        )
        self.drop_path = DropPath(drop_path)
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or width_in != width:
            self.shortcut = nn.Sequential(
                nn.Conv1d(width_in, width, 1, stride=stride, bias=False), nn.BatchNorm1d(width)
            )

    def forward(self, features: Tensor) -> Tensor:
        """From (batch, width_in, samples) to (batch, width, samples / stride)."""
        return functional.silu(self.shortcut(features) + self.drop_path(self.branch(features)))


class ResNet1d(nn.Module):
    """Residual blocks whose dilation grows, so that the last ones see seconds (as in WaveNet, 2016)."""

    BLOCKS: Sequence[tuple[int, int, int]] = (
        (64, 1, 1),
        (64, 1, 2),
        (128, 2, 1),
        (128, 1, 2),
        (256, 2, 1),
        (256, 1, 2),
        (256, 2, 1),
        (256, 1, 4),
    )
    """Width, stride and dilation of each."""

    def __init__(self, place: TracePlace, drop_path_rate: float = 0.0) -> None:
        super().__init__()
        first, last = self.BLOCKS[0][0], self.BLOCKS[-1][0]
        self.num_features = last
        self.stem = _strided(place.traces, first, kernel=15)
        width, blocks = first, []
        for number, (wider, stride, dilation) in enumerate(self.BLOCKS):
            rate = drop_path_rate * number / (len(self.BLOCKS) - 1)
            blocks.append(ResidualBlock(width, wider, stride=stride, dilation=dilation, drop_path=rate))
            width = wider
        self.blocks = nn.Sequential(*blocks)

    def forward(self, traces: Tensor) -> Tensor:
        """From (batch, traces, samples) to (batch, width, 1, places)."""
        features: Tensor = self.blocks(self.stem(traces))
        return features.unsqueeze(2)


class ConvAttention(nn.Module):
    """A convolutional stem, then attention between moments (as in EEG Conformer, Song et al. 2023)."""

    WIDTH, DEPTH, HEADS = 192, 4, 6

    def __init__(self, place: TracePlace, drop_path_rate: float = 0.0) -> None:
        super().__init__()
        self.num_features = self.WIDTH
        self.stem = nn.Sequential(
            _strided(place.traces, 64, kernel=15),
            _strided(64, 128, kernel=7),
            _strided(128, self.WIDTH, kernel=7),
            _strided(self.WIDTH, self.WIDTH, kernel=7),
        )
        places = -(-place.n_times // 2**4)
        self.position = nn.Parameter(torch.empty(1, places, self.WIDTH))
        nn.init.trunc_normal_(self.position, std=0.02)
        self.blocks = nn.Sequential(
            *(
                Block(
                    self.WIDTH,
                    self.HEADS,
                    qkv_bias=True,
                    drop_path=drop_path_rate * number / (self.DEPTH - 1),
                )
                for number in range(self.DEPTH)
            )
        )
        self.norm = nn.LayerNorm(self.WIDTH)

    def forward(self, traces: Tensor) -> Tensor:
        """From (batch, traces, samples) to (batch, places, width): tokens."""
        tokens = self.stem(traces).transpose(1, 2) + self.position
        features: Tensor = self.norm(self.blocks(tokens))
        return features

    def no_weight_decay(self) -> set[str]:
        """The positions."""
        return {"position"}


def _made_by(name: TraceBackbone) -> Callable[..., nn.Module]:
    match name:
        case "eegnet":
            return EEGNet
        case "resnet1d":
            return ResNet1d
        case "conv_attention":
            return ConvAttention


_NAMES: tuple[TraceBackbone, ...] = get_args(TraceBackbone)
TRACE_BACKBONES: dict[TraceBackbone, Callable[..., nn.Module]] = {name: _made_by(name) for name in _NAMES}


def _strided(width_in: int, width: int, *, kernel: int) -> nn.Sequential:
    """A convolution that halves the number of samples, rounded up."""
    return nn.Sequential(
        nn.Conv1d(width_in, width, kernel, stride=2, padding=kernel // 2, bias=False),
        nn.BatchNorm1d(width),
        nn.SiLU(),
    )


def _odd(samples: float) -> int:
    """The nearest odd number of samples, at least 3."""
    return max(3, 2 * round((samples - 1) / 2) + 1)
