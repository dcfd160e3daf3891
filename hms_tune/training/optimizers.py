"""Optimizers by name, with the fastest implementation the device has."""

from __future__ import annotations

from typing import Any

import torch

from hms_tune.config.trial import SGD, Adam, AdamW, Optimizer


def make_optimizer(
    config: Optimizer, groups: list[dict[str, Any]], device: torch.device
) -> torch.optim.Optimizer:
    """An optimizer over parameter groups that carry their own ``lr`` and ``weight_decay``.

    The learning rates given are the largest of the schedule; each group remembers its own as ``peak_lr``.
    """
    for group in groups:
        group["peak_lr"] = float(group["lr"])
    fused = device.type == "cuda"
    match config:
        case SGD():
            return torch.optim.SGD(groups, momentum=config.momentum, nesterov=config.nesterov, fused=fused)
        case Adam():
            return torch.optim.Adam(groups, betas=(config.beta1, config.beta2), fused=fused)
        case AdamW():
            return torch.optim.AdamW(groups, betas=(config.beta1, config.beta2), fused=fused)


def set_learning_rate(optimizer: torch.optim.Optimizer, factor: float) -> float:
    """Scale every group's peak learning rate; returns the largest one now in force."""
    largest = 0.0
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * factor
        largest = max(largest, group["lr"])
    return largest
