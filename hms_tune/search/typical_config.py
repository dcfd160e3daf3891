"""Configurations that stand for a whole space: the one in its middle, and the one that takes most memory."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator
from functools import cache
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
_PRESENT = frozenset({"input.eeg", "input.detail", "input.kaggle", "model.trace_backbone"})


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

    Backbones are compared by what their layers put out for an image of one size; what branches of whole
    sections and layouts of views make of it, by the numbers of a batch.

    Raises
    ------
    ConfigError
        If a rule between several keys forbids it.
    """
    found, refused = [], []
    for each in _without_choices(space):
        try:
            found.append(_complete(each, _large))
        except ConfigError as error:  # such as two branches in a grid
            refused.append(error)
    if not found:
        raise refused[0]
    return max(found, key=_numbers)


def _without_choices(space: Group) -> Iterator[Group]:
    """The space once for each combination of whole sections, backbones and layouts that it chooses among."""
    models, inputs, trainings = (_branches(space.entries[name]) for name in ("model", "input", "training"))
    models = [each for model in models for each in _for_each_value(model, "backbone")]
    inputs = [each for images in inputs for each in _for_each_value(images, "layout")]
    for model, images, training in itertools.product(models, inputs, trainings):
        yield Group({**space.entries, "model": model, "input": images, "training": training})


def _branches(node: Node) -> list[Node]:
    if not isinstance(node, Choices):
        return [node]
    return [each for branch in node.branches for each in _branches(branch.node)]


def _for_each_value(section: Node, key: str) -> list[Node]:
    """A section once for each value of a key; one that leaves it to its default stays."""
    assert isinstance(section, Group)
    if key not in section.entries:
        return [section]
    return [Group({**section.entries, key: value}) for value in _branches(section.entries[key])]


def _large(name: str, node: Searched) -> Any:
    if name in _LARGE:
        return _extreme(node, most=True)
    if name in _SMALL:
        return _extreme(node, most=False)
    if isinstance(node, Choices) and (name in _PRESENT or name.startswith("input.more.")):
        there = tuple(branch for branch in node.branches if branch.label is not None)
        return _middle(Choices(there or node.branches))
    return _middle(node)


def _numbers(config: TrialConfig) -> tuple[int, int]:
    """What a batch makes the backbone put out, in proportion; and the numbers of the batch itself."""
    images = config.training.batch_size * math.prod(config.input.image)
    return images * _outputs(config.model.backbone), images * config.input.for_model.channels


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


@cache
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
