"""Backbones that users write: a function from what the network is given to a module.

It stands in an installed package and is named as ``package.module:function``, or by an entry point of the
group ``hms_tune.backbones``. A study file or a bundle can come from anybody, so nothing is called but
functions that are marked with :func:`backbone`. A module runs when it is imported, and some of them do much
then; so none is imported whose text does not mark the function.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Callable
from functools import lru_cache
from importlib import import_module
from importlib.machinery import ModuleSpec
from importlib.metadata import entry_points
from typing import Any, TypeVar

from torch import nn

from hms_tune.config.image_layout import ModelInput
from hms_tune.errors import ModelError

GROUP = "hms_tune.backbones"

_FUNCTION = re.compile(r"\w+(\.\w+)*:\w+")
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
    return _FUNCTION.fullmatch(name) is not None or _announced(name) is not None


@lru_cache(maxsize=256)
def _announced(name: str) -> str | None:
    """The function that an entry point of that name leads to; asked once, for it takes milliseconds."""
    found = entry_points(group=GROUP, name=name)
    return next(iter(found)).value if found else None


@lru_cache(maxsize=64)
def own_backbone(name: str) -> Callable[[ModelInput], nn.Module]:
    """The function of that name.

    Raises
    ------
    ModelError
        If it cannot be imported, or is not marked.
    """
    announced = _announced(name)
    module, _, attribute = (announced or name).partition(":")
    try:
        if announced is None and module not in sys.modules and not _is_marked_in(_source(module), attribute):
            raise _unmarked(name)
        build: Any = getattr(import_module(module), attribute)
        marked = getattr(build, _MARK, False) is True  # some objects have any attribute
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(
            f"backbone {name} cannot be imported ({error})",
            where="model.backbone",
            hint="Install its package into this environment, or put its folder into PYTHONPATH",
        ) from error
    if not marked:
        raise _unmarked(name)
    return build  # type: ignore[no-any-return]


def _unmarked(name: str) -> ModelError:
    return ModelError(
        f"{name} is not marked as a backbone",
        where="model.backbone",
        hint="Write @hms_tune.backbone above the function, and name the module where it stands",
    )


def _source(module: str) -> str:
    """The text of a module. Neither it nor a package around it is run.

    Raises
    ------
    ImportError
        If there is none.
    """
    parts = module.split(".")
    if parts[0] in sys.stdlib_module_names:
        raise ImportError(f"{module} is a part of Python")
    spec: ModuleSpec | None = None
    for depth in range(1, len(parts) + 1):
        inside = None if spec is None else spec.submodule_search_locations or []
        spec = _spec(".".join(parts[:depth]), inside)
    read = getattr(spec and spec.loader, "get_source", None)
    return (read and read(module)) or ""


def _spec(module: str, inside: Any) -> ModuleSpec:
    for finder in sys.meta_path:
        if (spec := finder.find_spec(module, inside)) is not None:
            return spec
    raise ImportError(f"No module named {module!r}")


def _is_marked_in(source: str, function: str) -> bool:
    """Whether a function or class of this name stands under the mark."""
    defined = (ast.FunctionDef, ast.ClassDef)
    return any(
        isinstance(each, defined)
        and each.name == function
        and any(ast.unparse(mark).rpartition(".")[2] == backbone.__name__ for mark in each.decorator_list)
        for each in ast.parse(source).body
    )
