"""Bytes that the kept features of frozen layers take."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor, nn

from hms_tune.config.image_layout import ModelInput
from hms_tune.config.trial import ModelConfig, TrialConfig
from hms_tune.models.frozen_prefix import cut
from hms_tune.models.network import Network
from hms_tune.signals.augmentation import Augmentation
from hms_tune.training.memory.footprint import count_shapes, shape_of


def feature_bytes(config: TrialConfig, *, half: bool) -> int | None:
    """Bytes that one row's features take, at most; nothing is computed.

    Parameters
    ----------
    config : the trial
    half : whether it computes under bfloat16 autocast

    Returns
    -------
    None where the trial keeps none: nothing is frozen, images vary, or the network cannot be cut
    """
    model = config.model
    freezes = bool(model.frozen_layers or model.frozen_share) or model.finetuned_layers is not None
    if not freezes or Augmentation(config.augmentation, config.input).changes_anything:
        return None
    counted = _counted(shape_of(model), config.input.for_model)
    if counted is None:
        return None
    numbers, normalizes_in_float32 = counted
    return numbers * (2 if half and not normalizes_in_float32 else 4)


@lru_cache(maxsize=256)
def _counted(model: ModelConfig, given: ModelInput) -> tuple[int, bool] | None:
    """Numbers in a row's features, and whether autocast leaves them in float32 as it may."""
    return count_shapes(model, given, lambda network: _numbers(network, given))


def _numbers(network: Network, given: ModelInput) -> tuple[int, bool] | None:
    parts = cut(network)
    if parts is None:
        return None
    device = next(network.parameters()).device
    features = parts[0](torch.empty(2, *given.shape, device=device))
    whole = all(isinstance(each, Tensor) and len(each) == 2 for each in features)
    if not whole:
        return None
    normalizes_in_float32 = any(isinstance(each, nn.LayerNorm | nn.GroupNorm) for each in network.modules())
    return sum(each[0].numel() for each in features), normalizes_in_float32
