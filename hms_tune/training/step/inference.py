"""Probabilities from one network, or from the folds' networks together."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hms_tune.config.trial import TrainingConfig
from hms_tune.machine.device import autocast
from hms_tune.models.losses import probabilities


@torch.no_grad()
def predict_probabilities(
    networks: Sequence[nn.Module],
    inputs_of: Callable[[Tensor], Tensor | tuple[Tensor, ...]],
    rows: Tensor,
    *,
    training: TrainingConfig,
    device: torch.device,
    batch_size: int | None = None,
) -> NDArray[np.float32]:
    """Mean class probabilities of the networks, in eval mode.

    Parameters
    ----------
    networks : networks on ``device``; their training mode is restored
    inputs_of : rows to images, such as :meth:`hms_tune.training.images.images.RowImages.clean`, or to several
        inputs
    rows : int64 tensor, shape (n_rows,)
    training : its loss says what logits mean, its precision how they are computed
    batch_size : rows at once; ``training.test_batch_size`` by default

    Returns
    -------
    float32 array, shape (n_rows, n_classes); rows sum to 1
    """
    modes = [network.training for network in networks]
    for network in networks:
        network.eval()
    parts: list[Tensor] = []
    for batch in rows.split(batch_size or training.test_batch_size):
        given = inputs_of(batch)
        inputs = given if isinstance(given, tuple) else (given.contiguous(memory_format=torch.channels_last),)
        with autocast(device, training.precision):
            logits = [network(*inputs) for network in networks]
        parts.append(torch.stack([probabilities(each.float(), training.loss) for each in logits]).mean(dim=0))
    for network, mode in zip(networks, modes, strict=True):
        network.train(mode)
    stacked = torch.cat(parts) if parts else torch.empty(0, 6)
    return np.asarray(stacked.cpu().numpy(), dtype=np.float32)
