"""Backbones that users write: a function from what the network is given to a module.

It stands in an installed package and is named as ``package.module:function``, or by an entry point of the
group ``hms_tune.backbones``. A study file or a bundle can come from anybody, so nothing is called but
functions that are marked with :func:`backbone`.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from functools import lru_cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, TypeVar

from torch import nn

from hms_tune.config.image_layout import ModelInput
from hms_tune.errors import ModelError

GROUP = "hms_tune.backbones"

_FUNCTION = re.compile(r"[\w.]+:\w+")
_MARK = "_hms_tune_backbone"

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
    setattr(build, _MARK, True)
    return build


def is_own(name: str) -> bool:
    """Whether a backbone's name is that of a user's function."""
    return _FUNCTION.fullmatch(name) is not None or bool(entry_points(group=GROUP, name=name))


@lru_cache(maxsize=64)
def own_backbone(name: str) -> Callable[[ModelInput], nn.Module]:
    """The function of that name.

    Raises
    ------
    ModelError
        If it cannot be imported, or is not marked.
    """
    found = entry_points(group=GROUP, name=name)
    module, _, attribute = (next(iter(found)).value if found else name).partition(":")
    try:
        build: Any = getattr(_imported(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ModelError(
            f"backbone {name} cannot be imported ({error})",
            where="model.backbone",
            hint="Install its package into this environment, or put its folder into PYTHONPATH",
        ) from error
    if not getattr(build, _MARK, False):
        raise ModelError(
            f"{name} is not marked as a backbone",
            where="model.backbone",
            hint="Write @hms_tune.backbone above the function",
        )
    return build  # type: ignore[no-any-return]


def _imported(module: str) -> Any:
    if module.partition(".")[0] in sys.stdlib_module_names:
        raise ImportError(f"{module} is a part of Python")
    return import_module(module)
