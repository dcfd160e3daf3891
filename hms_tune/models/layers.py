"""The layer groups of a backbone, and which of them are trained.

A group is one block as timm's own matcher for layer-wise learning rates divides the network: the stem,
then each residual block. Groups count from the input side; the head is no group and is always trained.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from timm.models import group_parameters
from torch import nn

from hms_tune.config.trial import ModelConfig
from hms_tune.errors import ModelError
from hms_tune.models.backbone import check_backbone, make_skeleton


@dataclass(frozen=True, slots=True)
class LayerGroup:
    """One block of a backbone.

    Attributes
    ----------
    number : its place, counted from 0 at the input side
    name : the modules it holds, for people
    parameters : how many numbers are trained in it
    modules : names of the modules that wholly belong to it, with all they contain, buffers included
    parameter_names : names of its parameters in the backbone
    """

    number: int
    name: str
    parameters: int
    modules: tuple[str, ...]
    parameter_names: tuple[str, ...]


def layer_groups(backbone: str) -> list[LayerGroup]:
    """The layer groups of a backbone with three input channels, from the input side.

    Built on the meta device: no weights are made or loaded.

    Raises
    ------
    ModelError
        If timm does not know the backbone or cannot build it.
    """
    check_backbone(backbone)
    return list(_layer_groups(backbone))


@lru_cache(maxsize=64)
def _layer_groups(backbone: str) -> tuple[LayerGroup, ...]:
    return tuple(divide(make_skeleton(backbone)))


def divide(backbone: nn.Module) -> list[LayerGroup]:
    """Divide a built backbone into its layer groups, from the input side.

    One that timm does not divide has its children as groups, and where a child is a sequence of blocks, the
    blocks.
    """
    matcher = getattr(backbone, "group_matcher", None)
    group_of: dict[str, int] = (
        {} if matcher is None else group_parameters(backbone, matcher(coarse=False), reverse=True)
    )
    if len(set(group_of.values())) <= 1:
        group_of = _by_children(backbone)
    owned = dict(_owned_modules(backbone, group_of))
    groups = []
    for number in sorted(set(group_of.values())):
        names = tuple(
            parameter for parameter, _ in backbone.named_parameters() if group_of[parameter] == number
        )
        modules = tuple(module for module, group in owned.items() if group == number)
        alone = (name for name in names if not any(is_within(name, module) for module in modules))
        groups.append(
            LayerGroup(
                number=number,
                name=", ".join(itertools.chain(modules, alone)),
                parameters=sum(backbone.get_parameter(parameter).numel() for parameter in names),
                modules=modules,
                parameter_names=names,
            )
        )
    return groups


def _by_children(backbone: nn.Module) -> dict[str, int]:
    """The number of each parameter's child; what lies in none belongs to the first."""
    blocks = list(_blocks(backbone))
    named = [name for name, _ in backbone.named_parameters()]
    used = [block for block in blocks if any(is_within(name, block) for name in named)]
    number_of = {block: number for number, block in enumerate(used)}
    return {name: next((number_of[block] for block in used if is_within(name, block)), 0) for name in named}


def _blocks(parent: nn.Module, prefix: str = "") -> Iterator[str]:
    for name, child in parent.named_children():
        is_sequence = isinstance(child, nn.Sequential | nn.ModuleList)
        items = list(child.children()) if is_sequence else []
        if items and all(any(True for _ in item.children()) for item in items):
            yield from _blocks(child, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def is_within(name: str, module: str) -> bool:
    """Whether the module or parameter ``name`` is ``module`` or lies inside it."""
    return name == module or name.startswith(f"{module}.")


def _owned_modules(backbone: nn.Module, group_of: Mapping[str, int]) -> Iterator[tuple[str, int]]:
    """The largest modules all of whose parameters are in one group, with that group."""

    def visit(prefix: str, module: nn.Module) -> Iterator[tuple[str, int]]:
        for child_name, child in module.named_children():
            name = f"{prefix}{child_name}"
            groups = {group_of[f"{name}.{parameter}"] for parameter, _ in child.named_parameters()}
            if len(groups) == 1:
                yield name, groups.pop()
            elif groups:
                yield from visit(f"{name}.", child)

    return visit("", backbone)


def check_depth(config: ModelConfig) -> None:
    """Refuse a backbone that timm does not know, and more frozen or fine-tuned layers than it has.

    Raises
    ------
    ModelError
        With the nearest backbone names, or the number of layer groups.
    """
    check_backbone(config.backbone)
    for key in ("frozen_layers", "finetuned_layers"):
        wanted = getattr(config, key)
        if wanted is not None:
            depth = len(_layer_groups(config.backbone))
            if wanted > depth:
                raise ModelError(
                    f"{config.backbone} has {depth} layer groups, not {wanted}",
                    where=f"model.{key}",
                    hint=f"Choose 0 to {depth}; 'hms-tune model layers {config.backbone}' lists them.",
                )


def frozen_count(config: ModelConfig, groups: Sequence[LayerGroup]) -> int:
    """How many groups, from the input side, are not trained."""
    if config.finetuned_layers is not None:
        return len(groups) - config.finetuned_layers
    if config.frozen_share is not None:
        most = config.frozen_share * sum(group.parameters for group in groups)
        summed = itertools.accumulate(group.parameters for group in groups)
        return sum(so_far <= most for so_far in summed)
    return config.frozen_layers or 0


def freeze(backbone: nn.Module, groups: list[LayerGroup]) -> list[nn.Module]:
    """Stop training the parameters of these groups.

    Returns
    -------
    the modules of these groups; they belong in eval mode, so that their BatchNorm keeps its statistics
    and the frozen prefix is one fixed function, without a gradient graph
    """
    for group in groups:
        for name in group.parameter_names:
            backbone.get_parameter(name).requires_grad_(False)
    return [backbone.get_submodule(module) for group in groups for module in group.modules]
