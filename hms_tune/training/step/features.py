"""What a network learns from: images, or what its frozen prefix makes of them, computed once."""

from __future__ import annotations

import json
import logging

import torch
from torch import Tensor

from hms_tune.config.trial import TrialConfig
from hms_tune.machine.device import autocast
from hms_tune.machine.progress import ProgressLines
from hms_tune.models.frozen_prefix import FrozenPrefix
from hms_tune.training.images.images import RowImages

_logger = logging.getLogger(__name__)

_AT_ONCE = 64
"""Rows whose features are made in one piece, where so many are predicted in one."""


class FeatureCache:
    """Features of every row at the cut of one network.

    Where weights are pretrained, the frozen prefix is the same in every fold and in every trial of a
    backbone; where they are random, each fold has its own. Only the newest features are kept, and only in the
    room that a trial's memory plan leaves them.
    """

    def __init__(self) -> None:
        self._room = 0
        self._trial = ""
        self._fold: int | None = None
        self._features: tuple[Tensor, ...] | None = None

    @property
    def nbytes(self) -> int:
        """Bytes that they take."""
        return sum(feature.nbytes for feature in self._features or ())

    def begin_trial(self, config: TrialConfig, images_key: str, *, room: int) -> None:
        """Hear how many bytes a trial's features may take; those of other settings go."""
        trial = _key(config, images_key)
        if room == 0 or trial != self._trial:
            self._features = self._fold = None
        self._room, self._trial = room, trial

    @torch.no_grad()
    def get(
        self,
        config: TrialConfig,
        fold: int,
        prefix: FrozenPrefix,
        images: RowImages,
        device: torch.device,
    ) -> tuple[Tensor, ...] | None:
        """Features of all rows, each ``(n_rows, …)``; None where they do not fit, or are no batch of tensors.

        Parameters
        ----------
        config : the trial
        fold : whose weights the prefix has
        prefix : the frozen layers
        images : of all rows; they do not vary
        device : where they are computed and kept
        """
        if _key(config, images.key) != self._trial:
            return None  # another trial's memory was planned meanwhile
        n_rows = len(images)
        fold = 0 if config.model.pretrained else fold
        if fold == self._fold:
            return self._features
        self._fold, self._features = fold, None
        parts = self._compute(prefix, images, torch.arange(min(2, n_rows)), config, device)
        if parts is None:
            return None
        needed = sum(part[0].numel() * part.element_size() for part in parts) * n_rows
        if needed > self._room:
            return None
        features = tuple(
            torch.empty((n_rows, *part.shape[1:]), dtype=part.dtype, device=device) for part in parts
        )
        told = ProgressLines("passing images through the frozen layers", "rows", _logger.info)
        for rows in torch.arange(n_rows).split(_at_once(config)):
            computed = self._compute(prefix, images, rows, config, device)
            assert computed is not None
            for whole, part in zip(features, computed, strict=True):
                whole[rows[0] : rows[-1] + 1] = part
            told.update(int(rows[-1]) + 1, n_rows)
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


def _at_once(config: TrialConfig) -> int:
    return min(_AT_ONCE, config.training.test_batch_size)


def _key(config: TrialConfig, images_key: str) -> str:
    """What the features of a trial's frozen prefixes depend on, but for the fold."""
    model = config.model
    weights = "published" if model.pretrained is True else model.pretrained or config.training.seed
    depth = [model.frozen_layers, model.finetuned_layers, model.frozen_share]
    return json.dumps(
        [
            images_key,
            model.backbone,
            depth,
            weights,
            config.training.precision,
            config.input.channels,
            _at_once(config),
        ]
    )
