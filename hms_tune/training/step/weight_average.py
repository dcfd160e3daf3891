"""The moving average of a network's weights."""

from __future__ import annotations

from copy import deepcopy
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

Averaged = TypeVar("Averaged", bound=nn.Module)


class MovingAverage(Generic[Averaged]):
    """Follows a network, buffers included, in a few kernels and without asking it for its parts each step.

    The decay rises from 0 as ``1 − step^(−2/3)`` up to the configured one, so that early weights are
    soon forgotten (the warm-up of timm's ``ModelEmaV3``, whose numbers these are).

    Parameters
    ----------
    network : whose weights are averaged; it must keep its tensors
    decay : largest share of the average that stays in a step
    """

    def __init__(self, network: Averaged, decay: float) -> None:
        self.network: Averaged = deepcopy(network).eval()
        self.decay = decay
        pairs = list(zip(self.network.state_dict().values(), network.state_dict().values(), strict=True))
        self._averaged = [pair for pair in pairs if pair[0].is_floating_point()]
        self._counted = [pair for pair in pairs if not pair[0].is_floating_point()]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Follow the network; ``step`` counts the updates before this one."""
        share = 1.0 - self._decay_at(step)
        if self._averaged:
            torch._foreach_lerp_(*_sides(self._averaged), share)
        if self._counted:
            torch._foreach_copy_(*_sides(self._counted))

    @torch.no_grad()
    def reset(self) -> None:
        """Become the network as it is."""
        for pairs in (self._averaged, self._counted):
            if pairs:
                torch._foreach_copy_(*_sides(pairs))

    def _decay_at(self, step: int) -> float:
        if step <= 1:
            return 0.0
        rising: float = 1.0 - float(step) ** (-2.0 / 3.0)
        return min(rising, self.decay)


def _sides(pairs: list[tuple[Tensor, Tensor]]) -> tuple[list[Tensor], list[Tensor]]:
    return [pair[0] for pair in pairs], [pair[1] for pair in pairs]
