"""SGD, Adam and AdamW in the fastest implementation the device has, with rates that live in tensors.

A captured CUDA graph holds every Python number for good. So learning rates and weight decay are tensors on
the device, filled for each step from a table made once for an epoch; a network, its optimizer and their graph
then serve every fold and every trial that differ in nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from hms_tune.config.trial import SGD, Adam, AdamW, Optimizer, TimmOptimizer
from hms_tune.training.step.timm_optimizers import TimmUpdater


def make_updater(
    config: Optimizer, groups: Sequence[dict[str, Any]], device: torch.device
) -> Updater | TimmUpdater:
    """What applies gradients, for parameter groups as :class:`Updater` takes them."""
    if isinstance(config, TimmOptimizer):
        return TimmUpdater(config, groups)
    return Updater(config, groups, device)


class Updater:
    """An optimizer whose learning rates and weight decay change in place.

    AdamW shrinks the weights before Adam's step, as Loshchilov & Hutter (ICLR 2019) have it; SGD and Adam
    add the decayed weights to the gradient.

    Parameters
    ----------
    config : which optimizer, with its moments
    groups : parameter groups with ``params``, ``lr`` (the largest of the schedule) and ``weight_decay``
    device : where the parameters are
    """

    capturable = True
    """Whether a step may be part of a CUDA graph."""

    def __init__(
        self, config: SGD | Adam | AdamW, groups: Sequence[dict[str, Any]], device: torch.device
    ) -> None:
        self._parameters: list[list[Tensor]] = [list(group["params"]) for group in groups]
        self._decoupled = isinstance(config, AdamW)
        self._decays = [group["weight_decay"] > 0.0 for group in groups]
        self._rates = torch.zeros(2, len(groups), device=device)
        self._table = self._rates[None]
        self.set_peaks(groups)
        self._optimizer = _make(
            config,
            [
                {"params": parameters, "lr": self._rates[0, number]}
                for number, parameters in enumerate(self._parameters)
            ],
            device,
        )

    def fits(self, groups: Sequence[dict[str, Any]]) -> bool:
        """Whether these groups differ from its own in nothing but their rates."""
        return [group["weight_decay"] > 0.0 for group in groups] == self._decays and [
            list(map(id, group["params"])) for group in groups
        ] == [list(map(id, parameters)) for parameters in self._parameters]

    def set_peaks(self, groups: Sequence[dict[str, Any]]) -> None:
        """Take the largest learning rate and the weight decay of each group from these."""
        self._peaks = torch.tensor([group["lr"] for group in groups], dtype=torch.float64)
        self._decay = torch.tensor([group["weight_decay"] for group in groups], dtype=torch.float64)

    def plan(self, factors: Sequence[float]) -> None:
        """Fill the table of an epoch: the factor on the largest learning rates at each of its steps."""
        rates = torch.tensor(factors, dtype=torch.float64)[:, None] * self._peaks
        shrinking = 1.0 - rates * self._decay if self._decoupled else self._decay.expand_as(rates)
        self._table = torch.stack([rates, shrinking], dim=1).float().to(self._rates.device)

    def set_step(self, step: int) -> None:
        """Put the rates of a planned step in force; nothing waits for the device."""
        self._rates.copy_(self._table[step])

    def learning_rate(self, factor: float) -> float:
        """The largest learning rate of any group at a factor."""
        return float(self._peaks.max()) * factor

    @torch.no_grad()
    def step(self) -> None:
        """Update the parameters from their gradients."""
        for number, parameters in enumerate(self._parameters):
            if not self._decays[number]:
                continue
            by = self._rates[1, number]
            if self._decoupled:
                torch._foreach_mul_(parameters, by)
            else:
                gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
                torch._foreach_add_(gradients, list(torch._foreach_mul(parameters, by)))
        self._optimizer.step()

    def zero_grad(self) -> None:
        """Forget the gradients."""
        self._optimizer.zero_grad(set_to_none=True)

    @torch.no_grad()
    def reset(self) -> None:
        """Forget all moments, in place."""
        for state in self._optimizer.state.values():
            for value in state.values():
                if isinstance(value, Tensor):
                    value.zero_()

    def kept_aside(self) -> Any:
        """A copy of :meth:`state_dict` in the host's memory."""
        return [
            {key: value.to("cpu", copy=True) for key, value in state.items()} for state in self.state_dict()
        ]

    def state_dict(self) -> list[dict[str, Tensor]]:
        """The moments of each parameter, in their order; empty before the first step, and of plain SGD."""
        return [
            {key: value for key, value in self._optimizer.state[parameter].items() if value is not None}
            for parameters in self._parameters
            for parameter in parameters
            if parameter in self._optimizer.state
        ]

    @torch.no_grad()
    def load_state_dict(self, saved: Sequence[dict[str, Tensor]]) -> None:
        """Take moments from :meth:`state_dict`, in place where there are some already."""
        if not saved:  # of plain SGD, or before the first step
            self.reset()
            return
        every = [parameter for parameters in self._parameters for parameter in parameters]
        for parameter, moments in zip(every, saved, strict=True):
            state = self._optimizer.state[parameter]
            for key, value in moments.items():
                if isinstance(state.get(key), Tensor):
                    state[key].copy_(value)
                else:
                    place = self._rates.device if value.ndim == 0 else parameter.device
                    state[key] = value.to(place, copy=True)


def _make(
    config: SGD | Adam | AdamW, groups: list[dict[str, Any]], device: torch.device
) -> torch.optim.Optimizer:
    """The optimizer without weight decay; fused into one kernel for all parameters."""
    capturable = device.type == "cuda"
    match config:
        case SGD():
            return torch.optim.SGD(groups, momentum=config.momentum, nesterov=config.nesterov, fused=True)
        case Adam() | AdamW():
            betas = (config.beta1, config.beta2)
            return torch.optim.Adam(groups, betas=betas, fused=True, capturable=capturable)
