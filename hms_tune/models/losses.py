"""Losses on soft targets: the shares of the experts' votes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from hms_tune.config.trial import LossName

Loss = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""From logits and targets, both float (batch, n_classes), and the weight of each row (batch,) or None, to the
mean of the weighted losses, a scalar."""

RowLoss = Callable[[Tensor, Tensor], Tensor]


def kl_divergence(logits: Tensor, targets: Tensor) -> Tensor:
    """Kullback–Leibler divergence of softmax(logits) from the targets, Σ t (log t - log p), of each row."""
    return functional.kl_div(logits.log_softmax(dim=-1), targets, reduction="none").sum(dim=-1)


def soft_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy -Σ t log p of each row: the KL divergence plus the entropy of the targets."""
    return -(targets * logits.log_softmax(dim=-1)).sum(dim=-1)


def binary_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Each class apart as a binary problem with a soft label; mean over the classes of each row."""
    return functional.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean(dim=-1)


def _row_loss(name: LossName) -> RowLoss:
    match name:
        case "kl":
            return kl_divergence
        case "cross_entropy":
            return soft_cross_entropy
        case "bce":
            return binary_cross_entropy


def make_loss(name: LossName, label_smoothing: float = 0.0) -> Loss:
    """The loss of that name.

    Parameters
    ----------
    name : ``kl``, ``cross_entropy`` or ``bce``
    label_smoothing : share ε of each target that is spread evenly over all classes: (1 - ε) t + ε / n

    Returns
    -------
    function of logits and targets, both (batch, n_classes), and optionally the weights of the rows (batch,),
    to a float32 scalar. It computes in float32 whatever the logits come in.
    """
    return partial(_smoothed, _row_loss(name), label_smoothing)


def _smoothed(
    loss: RowLoss, label_smoothing: float, logits: Tensor, targets: Tensor, weights: Tensor | None = None
) -> Tensor:
    with torch.autocast(logits.device.type, enabled=False):
        targets = targets.float()
        if label_smoothing:
            even = torch.full_like(targets, 1.0 / targets.shape[-1])
            targets = torch.lerp(targets, even, label_smoothing)
        losses = loss(logits.float(), targets)
        return losses.mean() if weights is None else (losses * weights).mean()


def probabilities(logits: Tensor, loss: LossName) -> Tensor:
    """Class probabilities that the loss gave the logits to mean.

    Parameters
    ----------
    logits : float32 (batch, n_classes)
    loss : what the network was trained with; after ``bce`` each class is a sigmoid of its own

    Returns
    -------
    float32 (batch, n_classes), rows sum to 1
    """
    match loss:
        case "kl" | "cross_entropy":
            return logits.softmax(dim=-1)
        case "bce":
            each = logits.sigmoid()
            return each / each.sum(dim=-1, keepdim=True).clamp_min(torch.finfo(each.dtype).tiny)
