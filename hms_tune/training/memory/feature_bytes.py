"""Bytes that the kept features of frozen layers take."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hms_tune.config.trial import TrialConfig
from hms_tune.signals.augmentation import Augmentation
from hms_tune.training.memory.footprint import shape_of

if TYPE_CHECKING:
    pass
from hms_tune.training.step.features import _counted


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
    freezes = bool(model.frozen_layers) or model.finetuned_layers is not None
    if not freezes or Augmentation(config.augmentation, config.input).changes_anything:
        return None
    counted = _counted(shape_of(model), config.input.channels, config.input.image)
    if counted is None:
        return None
    numbers, normalizes_in_float32 = counted
    return numbers * (2 if half and not normalizes_in_float32 else 4)
