"""Backbones: which exist, what they take, and how they are made. timm's, those of traces, and users' own."""

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

from hms_tune.config.image_layout import ModelInput, TracePlace
from hms_tune.errors import ModelError
from hms_tune.models.own_backbone import is_own, own_backbone
from hms_tune.models.trace_backbones import TRACE_BACKBONES
from hms_tune.models.without_numbers import without_numbers


@dataclass(frozen=True, slots=True)
class BackboneTraits:
    """What a backbone takes.

    Attributes
    ----------
    drop_path : whether it has stochastic depth
    fixed_size : whether it is built for one image size (most transformers)
    published : whether there may be pretrained weights of it on the model hub
    """

    drop_path: bool
    fixed_size: bool
    published: bool


EXAMPLE = ModelInput(3, (224, 224), TracePlace(16, tuple(range(224)), 0, 224, seconds=50.0))
"""What a backbone is given where only its layers are asked for."""


def check_backbone(backbone: str) -> None:
    """Refuse a name that neither timm nor this program knows, and a function that cannot be imported.

    Raises
    ------
    ModelError
        With the nearest names, or the tags of pretrained weights that the backbone has.
    """
    if backbone in TRACE_BACKBONES:
        return
    if is_own(backbone):
        own_backbone(backbone)
        return
    name, tag = split_model_name_tag(backbone)
    if not timm.is_model(backbone):
        known, asked = [*timm.list_models(), *TRACE_BACKBONES], name.lower().replace("-", "_")
        near = [asked] if asked in known else difflib.get_close_matches(asked, known, n=3, cutoff=0.5)
        raise ModelError(
            f"timm has no backbone {backbone!r}",
            where="model.backbone",
            hint=f"Did you mean {', '.join(near)}?"
            if near
            else "timm.list_models() names those of timm, docs/models.md the others.",
        )
    if not tag:
        return
    published = map(split_model_name_tag, timm.list_pretrained(f"{name}*"))
    tags = [known_tag for known, known_tag in published if known == name and known_tag]
    if tag not in tags:
        raise ModelError(
            f"backbone {name} has no pretrained weights tagged {tag!r}",
            where="model.backbone",
            hint=f"Leave the tag out, or use one of {', '.join(tags)}." if tags else "Leave the tag out.",
        )


@lru_cache(maxsize=64)
def traits(backbone: str) -> BackboneTraits:
    """What a backbone takes, found by building it without weights."""
    if is_own(backbone):
        return BackboneTraits(drop_path=False, fixed_size=False, published=False)
    skeleton = make_skeleton(backbone)
    config: Any = getattr(skeleton, "pretrained_cfg", None) or {}
    image = own_size(backbone, skeleton)[1:]
    return BackboneTraits(
        drop_path=_accepts(backbone, drop_path_rate=0.1),
        fixed_size=bool(config.get("fixed_input_size")) and _accepts(backbone, img_size=image),
        published=backbone not in TRACE_BACKBONES,
    )


def own_size(backbone: str, network: nn.Module) -> tuple[int, ...]:
    """Shape of one sample that a built backbone was made for."""
    if backbone in TRACE_BACKBONES and EXAMPLE.traces is not None:
        return EXAMPLE.traces.traces, EXAMPLE.traces.n_times
    config: Any = getattr(network, "pretrained_cfg", None) or {}
    return tuple(config.get("input_size") or EXAMPLE.shape)


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
    try:
        with without_numbers():
            return make_backbone(backbone, **arguments)
    except Exception:  # noqa: BLE001  (whatever it is, numbers tell)
        # Some constructors compute with the values of tensors, which the meta device does not have.
        with torch.random.fork_rng(devices=[]):
            return make_backbone(backbone, **arguments)


def make_backbone(
    backbone: str, *, given: ModelInput = EXAMPLE, weights: Path | None = None, **arguments: Any
) -> nn.Module:
    """Build a backbone that returns its last feature map, unpooled.

    Parameters
    ----------
    backbone : its name
    given : what the network is given
    weights : file of its published weights, which timm adapts to what is built; random without one
    **arguments : passed on to ``timm.create_model`` or to a backbone of traces

    Raises
    ------
    ModelError
        If the name is unknown, or the backbone has no unpooled feature map.
    """
    check_backbone(backbone)
    if backbone in TRACE_BACKBONES:
        if given.traces is None:
            raise ModelError(f"{backbone} reads traces, and no view is raw", where="model.backbone")
        return TRACE_BACKBONES[backbone](given.traces, **arguments)
    if is_own(backbone):
        return _own(backbone, given)
    if weights is not None:
        arguments["pretrained_cfg_overlay"] = {"file": str(weights)}
    try:
        network: nn.Module = timm.create_model(
            backbone,
            pretrained=weights is not None,
            num_classes=0,
            global_pool="",
            in_chans=given.channels,
            **arguments,
        )
    except AssertionError as error:
        raise ModelError(
            f"backbone {backbone} cannot be built like this ({str(error) or 'an assertion failed'})",
            where="model.backbone",
            hint="Choose one that returns a feature map, as the resnet and efficientnet families do.",
        ) from error
    return network


def _own(backbone: str, given: ModelInput) -> nn.Module:
    try:
        return own_backbone(backbone)(given)
    except (NotImplementedError, RuntimeError):
        raise  # perhaps only for want of numbers on the meta device
    except Exception as error:
        raise ModelError(
            f"backbone {backbone} cannot be built ({type(error).__name__}: {error})", where="model.backbone"
        ) from error
