"""Configurations that stand for a whole space: the one in its middle, and the one that takes most memory."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from hms_tune.config.ranges import (
    Choices,
    Fixed,
    FloatRange,
    Group,
    IntRange,
    Label,
    Node,
    Searched,
    resolve,
    stepped_values,
)
from hms_tune.config.trial import TrialConfig
from hms_tune.errors import ConfigError
from hms_tune.models.backbone import make_skeleton, own_size

_LARGE = frozenset({"training.batch_size", "input.image", "input.channels", "model.finetuned_layers"})
_SMALL = frozenset({"model.frozen_layers", "model.frozen_share"})
_BACKBONE = "model.backbone"


def middle_config(space: Group) -> TrialConfig:
    """The configuration in the middle of all ranges, and of all lists of choices.

    Raises
    ------
    ConfigError
        If a rule between several keys forbids it.
    """
    return _complete(space, lambda _name, node: _middle(node))


def largest_config(space: Group) -> TrialConfig:
    """The configuration whose training takes most memory; in what does not shape memory, the middle.

    Backbones are compared by what their layers put out for an image of one size.

    Raises
    ------
    ConfigError
        If a rule between several keys forbids it.
    """

    model = space.entries["model"]
    if isinstance(model, Choices):
        branches = [Group({**space.entries, "model": branch.node}) for branch in model.branches]
        return max(map(largest_config, branches), key=lambda config: _outputs(config.model.backbone))

    def with_backbone(backbone: Label) -> TrialConfig:
        def choose(name: str, node: Searched) -> Any:
            if name == _BACKBONE:
                return backbone
            if name in _LARGE:
                return _extreme(node, most=True)
            return _extreme(node, most=False) if name in _SMALL else _middle(node)

        return _complete(space, choose)

    backbones: list[Label] = [None]  # asked for only where there is a choice
    if isinstance(model, Group) and isinstance(found := model.entries["backbone"], Choices):
        backbones = [branch.label for branch in found.branches]
    return max(map(with_backbone, backbones), key=lambda config: _outputs(config.model.backbone))


def _complete(space: Group, choose: Any) -> TrialConfig:
    try:
        return TrialConfig.model_validate(resolve(space, choose))
    except ValidationError as error:
        found = error.errors()[0]
        raise ConfigError(found["msg"], where=".".join(map(str, found["loc"]))) from error


def _middle(node: Searched) -> Any:
    if isinstance(node, Choices):
        return node.branches[len(node.branches) // 2].label
    centre = math.sqrt(node.low * node.high) if node.log else (node.low + node.high) / 2
    if isinstance(node, IntRange) or node.step is not None:
        return min(stepped_values(node), key=lambda value: abs(value - centre))
    return min(max(centre, node.low), node.high)


def _extreme(node: Searched, *, most: bool) -> Any:
    pick: Any = max if most else min
    if isinstance(node, Choices):
        return pick(node.branches, key=lambda branch: _size(branch.node, pick)).label
    return pick(node.low, node.high)


def _size(node: Node, pick: Any) -> float:
    """A number to compare branches by: an image's area, a count, the end of a range."""
    match node:
        case Fixed(value):
            numbers: Iterable[Any] = value if isinstance(value, list | tuple) else [value]
            return math.prod(float(number) for number in numbers if isinstance(number, int | float))
        case FloatRange(low, high) | IntRange(low, high):
            return float(pick(low, high))
        case _:
            return 0.0


def _outputs(backbone: str) -> int:
    """Numbers that the layers of a backbone put out for an image of its own size."""
    network = make_skeleton(backbone)
    size = own_size(backbone, network)
    total = 0

    def note(module: nn.Module, _inputs: object, output: object) -> None:
        nonlocal total
        if isinstance(output, Tensor) and not list(module.children()):
            total += output.numel()

    for module in network.modules():
        module.register_forward_hook(note)
    parameter = next(network.parameters())
    with torch.no_grad():
        network.eval()(torch.empty(1, *size, device=parameter.device))
    return total
