"""What a network learns from: images, or what its frozen prefix makes of them, computed once."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hms_tune.config.trial import TrialConfig
from hms_tune.models.prefix import FrozenPrefix
from hms_tune.training.device import autocast
from hms_tune.training.free_memory import read_memory
from hms_tune.training.images import RowImages

if TYPE_CHECKING:
    from hms_tune.training.workspace import TrialData

_CACHED_SHARE = 0.25
"""Largest share of the device's free memory that features may take."""

_CHUNK = 64


class FeatureCache:
    """Features of every row at the cut of one network.

    Where weights are pretrained, the frozen prefix is the same in every fold and in every trial of a
    backbone; where they are random, each fold has its own. Only the newest features are kept.
    """

    def __init__(self) -> None:
        self._key: str | None = None
        self._features: tuple[Tensor, ...] | None = None

    @torch.no_grad()
    def get(
        self, config: TrialConfig, fold: int, prefix: FrozenPrefix, data: TrialData, device: torch.device
    ) -> tuple[Tensor, ...] | None:
        """Features of all rows, each ``(n_rows, …)``; None where they do not fit, or are no batch of tensors.

        Parameters
        ----------
        config : the trial
        fold : whose weights the prefix has
        prefix : the frozen layers
        data : the rows and their clean images
        device : where they are computed and kept
        """
        key, n_rows = _key(config, data.images.key, fold), len(data.labels)
        if key == self._key:
            return self._features
        self._key, self._features = key, None
        parts = self._compute(prefix, data.images, torch.arange(min(2, n_rows)), config, device)
        if parts is None:
            return None
        needed = sum(part[0].numel() * part.element_size() for part in parts) * n_rows
        if needed > _CACHED_SHARE * read_memory(device).free:
            return None
        features = tuple(
            torch.empty((n_rows, *part.shape[1:]), dtype=part.dtype, device=device) for part in parts
        )
        for rows in torch.arange(n_rows).split(_CHUNK):
            computed = self._compute(prefix, data.images, rows, config, device)
            assert computed is not None
            for whole, part in zip(features, computed, strict=True):
                whole[rows[0] : rows[-1] + 1] = part
        self._features = features
        return features

    @staticmethod
    def _compute(
        prefix: FrozenPrefix, images: RowImages, rows: Tensor, config: TrialConfig, device: torch.device
    ) -> tuple[Tensor, ...] | None:
        batch = images.clean(rows).contiguous(memory_format=torch.channels_last)
        with autocast(device, config.training.precision):
            parts = prefix(batch)
        whole = all(isinstance(part, Tensor) and part.shape[:1] == rows.shape for part in parts)
        return parts if whole else None


def _key(config: TrialConfig, images_key: str, fold: int) -> str:
    """What the features of a fold's frozen prefix depend on."""
    model = config.model
    weights = "published" if model.pretrained is True else model.pretrained or [config.training.seed, fold]
    depth = [model.frozen_layers, model.finetuned_layers]
    return json.dumps(
        [images_key, model.backbone, depth, weights, config.training.precision, config.input.channels]
    )
