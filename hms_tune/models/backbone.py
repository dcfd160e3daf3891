"""timm backbones: which exist, what they take, and how they are made."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models import split_model_name_tag
from torch import nn

from hms_tune.errors import ModelError


@dataclass(frozen=True, slots=True)
class BackboneTraits:
    """What a backbone takes.

    Attributes
    ----------
    drop_path : whether it has stochastic depth
    fixed_size : whether it is built for one image size (most transformers)
    """

    drop_path: bool
    fixed_size: bool


def check_backbone(backbone: str) -> None:
    """Refuse a name that timm does not know.

    Raises
    ------
    ModelError
        With the nearest names, or the tags of pretrained weights that the backbone has.
    """
    name, tag = split_model_name_tag(backbone)
    if not timm.is_model(backbone):
        near = difflib.get_close_matches(name, timm.list_models(), n=3, cutoff=0.5)
        raise ModelError(
            f"timm has no backbone {backbone!r}",
            where="model.backbone",
            hint=f"Did you mean {', '.join(near)}?" if near else "timm.list_models() names all of them.",
        )
    published = map(split_model_name_tag, timm.list_pretrained(f"{name}*"))
    tags = [known_tag for known, known_tag in published if known == name and known_tag]
    if tag and tag not in tags:
        raise ModelError(
            f"backbone {name} has no pretrained weights tagged {tag!r}",
            where="model.backbone",
            hint=f"Leave the tag out, or use one of {', '.join(tags)}." if tags else "Leave the tag out.",
        )


@lru_cache(maxsize=64)
def traits(backbone: str) -> BackboneTraits:
    """What a backbone takes, found by building it without weights."""
    skeleton = make_skeleton(backbone)
    config: Any = getattr(skeleton, "pretrained_cfg", None) or {}
    own_size = tuple((config.get("input_size") or (3, 224, 224))[1:])
    return BackboneTraits(
        drop_path=_accepts(backbone, drop_path_rate=0.1),
        fixed_size=bool(config.get("fixed_input_size")) and _accepts(backbone, img_size=own_size),
    )


def _accepts(backbone: str, **argument: Any) -> bool:
    try:
        make_skeleton(backbone, **argument)
    except TypeError as error:
        if next(iter(argument)) in str(error):
            return False
        raise
    return True


def make_skeleton(backbone: str, **arguments: Any) -> nn.Module:
    """Build a backbone on the meta device: shapes and names, no numbers.

    The caller's random numbers are left untouched.
    """
    with torch.random.fork_rng(devices=[]):
        try:
            with torch.device("meta"):
                return make_backbone(backbone, **arguments)
        except (NotImplementedError, RuntimeError):
            # Some constructors compute with the values of tensors, which the meta device does not have.
            return make_backbone(backbone, **arguments)


def make_backbone(backbone: str, *, weights: Path | None = None, **arguments: Any) -> nn.Module:
    """Build a backbone that returns its last feature map, unpooled.

    Parameters
    ----------
    backbone : timm model name
    weights : file of its published weights, which timm adapts to what is built; random without one
    **arguments : passed on to ``timm.create_model``

    Raises
    ------
    ModelError
        If timm does not know the name, or the backbone has no unpooled feature map.
    """
    check_backbone(backbone)
    if weights is not None:
        arguments["pretrained_cfg_overlay"] = {"file": str(weights)}
    try:
        network: nn.Module = timm.create_model(
            backbone, pretrained=weights is not None, num_classes=0, global_pool="", **arguments
        )
    except AssertionError as error:
        raise ModelError(
            f"backbone {backbone} cannot be built like this ({str(error) or 'an assertion failed'})",
            where="model.backbone",
            hint="Choose one that returns a feature map, as the resnet and efficientnet families do.",
        ) from error
    return network
