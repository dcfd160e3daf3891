"""Functions that users write and study files name as ``package.module:function``.

A study file or a bundle can come from anybody, so nothing is called but functions that are marked for it. A
module runs when it is imported, and some of them do much then; so none is imported whose text does not mark
the function.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from importlib.machinery import ModuleSpec
from importlib.metadata import entry_points
from typing import Any, TypeVar

from hms_tune.config.section import FUNCTION
from hms_tune.errors import HmsTuneError

Marked = TypeVar("Marked", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class OwnFunctions:
    """Users' functions of one kind.

    Parameters
    ----------
    kind : what they make; the mark is ``hms_tune.KIND``, the group of entry points ``hms_tune.KINDs``
    where : the key that names one
    error : what is raised where one cannot be had
    """

    kind: str
    where: str
    error: type[HmsTuneError]

    @property
    def group(self) -> str:
        """The group of entry points that can announce one."""
        return f"hms_tune.{self.kind}s"

    @property
    def _attribute(self) -> str:
        return f"_hms_tune_{self.kind}"

    def mark(self, function: Marked) -> Marked:
        """Mark a function as one of these."""
        setattr(function, self._attribute, True)
        return function

    def holds(self, name: str) -> bool:
        """Whether a name is that of a user's function."""
        return re.fullmatch(FUNCTION, name) is not None or _announced(self.group, name) is not None

    def find(self, name: str) -> Callable[..., Any]:
        """The function of that name.

        Raises
        ------
        HmsTuneError
            Of the given type, if it cannot be imported, or is not marked.
        """
        return _found(self, name)

    def is_marked(self, function: object) -> bool:
        """Whether it is; some objects have any attribute."""
        return getattr(function, self._attribute, False) is True

    def unmarked(self, name: str) -> HmsTuneError:
        """The error of a function that is not marked."""
        return self.error(
            f"{name} is not marked as a {self.kind}",
            where=self.where,
            hint=f"Write @hms_tune.{self.kind} above the function, and name the module where it stands",
        )


@lru_cache(maxsize=256)
def _announced(group: str, name: str) -> str | None:
    """The function that an entry point of that name leads to; asked once, for it takes milliseconds."""
    found = entry_points(group=group, name=name)
    return next(iter(found)).value if found else None


@lru_cache(maxsize=64)
def _found(functions: OwnFunctions, name: str) -> Callable[..., Any]:
    announced = _announced(functions.group, name)
    module, _, attribute = (announced or name).partition(":")
    try:
        unread = announced is None and module not in sys.modules
        if unread and not _is_marked_in(_source(module), attribute, functions.kind):
            raise functions.unmarked(name)
        function: Any = getattr(import_module(module), attribute)
        marked = functions.is_marked(function)
    except HmsTuneError:
        raise
    except Exception as error:
        raise functions.error(
            f"{functions.kind} {name} cannot be imported ({error})",
            where=functions.where,
            hint="Install its package into this environment, or put its folder into PYTHONPATH",
        ) from error
    if not marked:
        raise functions.unmarked(name)
    return function  # type: ignore[no-any-return]


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


def _is_marked_in(source: str, function: str, mark: str) -> bool:
    """Whether a function or class of this name stands under the mark."""
    defined = (ast.FunctionDef, ast.ClassDef)
    return any(
        isinstance(each, defined)
        and each.name == function
        and any(ast.unparse(one).rpartition(".")[2] == mark for one in each.decorator_list)
        for each in ast.parse(source).body
    )
