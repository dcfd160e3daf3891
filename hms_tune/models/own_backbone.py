"""Backbones that users write: a function from what the network is given to a module.

It stands in an installed package and is named as ``package.module:function``, or by an entry point of the
group ``hms_tune.backbones``; see :mod:`hms_tune.models.own_function`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from torch import nn

from hms_tune.config.image_layout import ModelInput
from hms_tune.errors import ModelError
from hms_tune.models.own_function import OwnFunctions

_BACKBONES = OwnFunctions("backbone", where="model.backbone", error=ModelError)

Build = TypeVar("Build", bound=Callable[[ModelInput], nn.Module])


def backbone(build: Build) -> Build:
    """Mark a function as one that builds a backbone.

    Parameters
    ----------
    build : takes a :class:`~hms_tune.config.image_layout.ModelInput`; returns a module from images of shape
        (batch, channels, height, width) to features of shape (batch, width), (batch, tokens, width) or
        (batch, width, rows, columns). Its layer groups are its children, unless its ``group_matcher`` says
        otherwise, as those of timm's models do
    """
    return _BACKBONES.mark(build)


def is_own(name: str) -> bool:
    """Whether a backbone's name is that of a user's function."""
    return _BACKBONES.holds(name)


def own_backbone(name: str) -> Callable[[ModelInput], nn.Module]:
    """The function of that name.

    Raises
    ------
    ModelError
        If it cannot be imported, or is not marked.
    """
    return _BACKBONES.find(name)
