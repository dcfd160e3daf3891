"""Steps of timm's optimizers.

Their rates are Python numbers, which a captured CUDA graph would hold for good, so their steps run plainly.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from hms_tune.config.trial import TimmOptimizer
from hms_tune.models.optimizers import check_optimizer, make_optimizer


class TimmUpdater:
    """An optimizer of timm's, stepped at planned rates and made anew for each fold.

    Parameters
    ----------
    config : which one
    groups : parameter groups with ``params``, ``lr`` (the largest of the schedule) and ``weight_decay``

    Raises
    ------
    ConfigError
        If timm does not know it, or a trial could not go on from a checkpoint with it.
    """

    capturable = False

    def __init__(self, config: TimmOptimizer, groups: Sequence[dict[str, Any]]) -> None:
        check_optimizer(config)
        self._config = config
        self._groups: list[dict[str, Any]] = []
        self._rates: list[list[float]] = []
        self.set_peaks(groups)
        self.reset()

    def fits(self, groups: Sequence[dict[str, Any]]) -> bool:
        """Whether these groups differ from its own in nothing but their rates."""
        return [list(map(id, group["params"])) for group in groups] == [
            list(map(id, group["params"])) for group in self._groups
        ]

    def set_peaks(self, groups: Sequence[dict[str, Any]]) -> None:
        """Take the largest learning rate and the weight decay of each group, for the next fold."""
        self._groups = [{key: group[key] for key in ("params", "lr", "weight_decay")} for group in groups]

    def plan(self, factors: Sequence[float]) -> None:
        """Set the factor on the largest learning rates at each step of an epoch."""
        self._rates = [[factor * group["lr"] for group in self._groups] for factor in factors]

    def set_step(self, step: int) -> None:
        """Put the rates of a planned step in force."""
        for group, rate in zip(self._optimizer.param_groups, self._rates[step], strict=True):
            group["lr"] = rate

    def learning_rate(self, factor: float) -> float:
        """The largest learning rate of any group at a factor."""
        return float(max(group["lr"] for group in self._groups)) * factor

    def step(self) -> None:
        """Update the parameters from their gradients."""
        self._optimizer.step()

    def zero_grad(self) -> None:
        """Forget the gradients."""
        self._optimizer.zero_grad(set_to_none=True)

    def reset(self) -> None:
        """Begin anew, as some begin with other numbers than zeros."""
        self._optimizer = make_optimizer(self._config, [dict(group) for group in self._groups])

    def kept_aside(self) -> Any:
        """A copy of :meth:`state_dict`."""
        return copy.deepcopy(self.state_dict())

    def state_dict(self) -> dict[str, Any]:
        """What it remembers of each parameter, by its number, and the numbers of each group."""
        saved = self._optimizer.state_dict()
        return {"state": saved["state"], "groups": list(map(_numbers, saved["param_groups"]))}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Go on from :meth:`state_dict`."""
        self.reset()
        fresh = self._optimizer.state_dict()
        groups = [
            group | numbers for group, numbers in zip(fresh["param_groups"], saved["groups"], strict=True)
        ]
        self._optimizer.load_state_dict(fresh | {"state": saved["state"], "param_groups": groups})


def _numbers(group: dict[str, Any]) -> dict[str, Any]:
    """What may change in a group from step to step: some count steps there. The rates are planned anew."""
    planned = ("lr", "weight_decay")
    return {
        key: value
        for key, value in group.items()
        if isinstance(value, Tensor | int | float) and key not in planned
    }
