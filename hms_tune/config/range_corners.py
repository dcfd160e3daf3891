"""Whether every configuration that a space can give is valid: rules between several values.

Bounds of single values are checked while reading. Rules such as "high_hz exceeds low_hz" need complete
configurations: each section is tried at the ends of its ranges in every branch.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from hms_tune.config.ranges import (
    Choices,
    Group,
    Node,
    Searched,
    assignments,
    combinations,
    corner_values,
    join,
    parameters,
    resolve,
)
from hms_tune.config.yaml_lines import Source

MOST_COMBINATIONS = 1024
"""A section with more combinations of ends and branches is sampled instead."""

_Section = TypeVar("_Section", bound=BaseModel)


def check_complete(space: Group, model: type[BaseModel], source: Source, lines: Mapping[str, int]) -> None:
    """Validate every section of ``model`` at its corners.

    Raises
    ------
    ConfigError
        With the values at which a rule breaks.
    """
    for key, node in space.entries.items():
        section = model.model_fields[key].annotation
        if not (isinstance(section, type) and issubclass(section, BaseModel)):
            continue
        for assignment in corners(node, key):
            try:
                section.model_validate(resolve(node, _lookup(assignment), key))
            except ValidationError as error:
                found = error.errors()[0]
                name = key
                for part in found["loc"]:
                    name = join(name, str(part)) if join(name, str(part)) in lines else name
                message = found["msg"].removeprefix("Value error, ")
                source.fail(f"{name}: {message}{_circumstances(assignment, message)}", lines.get(name))


def configs_at_corners(node: Node, name: str, section: type[_Section]) -> Iterator[_Section]:
    """The section's configurations at the ends of its ranges and in all its branches."""
    return map(section.model_validate, values_at_corners(node, name))


def values_at_corners(node: Node, name: str) -> Iterator[dict[str, Any]]:
    """The section's values at the ends of its ranges and in all its branches."""
    return (resolve(node, _lookup(assignment), name) for assignment in corners(node, name))


def corners(node: Node, name: str) -> Iterator[dict[str, Any]]:
    """Parameter values at the ends of all ranges, in all branches; when they are many, a fixed sample."""
    if combinations(node, corner_values, name) <= MOST_COMBINATIONS:
        yield from assignments(node, corner_values, name)
        return
    for pick in (min, max):
        yield _drawn(node, name, {}, lambda values, pick=pick: pick(values))
    generator = random.Random(0)
    for parameter in parameters(node, name):
        if isinstance(parameter.node, Choices):
            for branch in parameter.node.branches:
                forced = {**dict(parameter.condition), parameter.name: branch.label}
                for _ in range(8):
                    yield _drawn(node, name, forced, generator.choice)
    for _ in range(MOST_COMBINATIONS // 4):
        yield _drawn(node, name, {}, generator.choice)


def _drawn(node: Node, name: str, forced: Mapping[str, Any], pick: Any) -> dict[str, Any]:
    drawn: dict[str, Any] = {}

    def choose(parameter: str, searched: Searched) -> Any:
        if parameter in forced:
            value = forced[parameter]
        elif isinstance(searched, Choices):
            value = searched.branches[pick(range(len(searched.branches)))].label
        else:
            value = pick(corner_values(parameter, searched))
        drawn[parameter] = value
        return value

    resolve(node, choose, name)
    return drawn


def _lookup(assignment: Mapping[str, Any]) -> Any:
    return lambda name, _: assignment[name]


def _circumstances(assignment: Mapping[str, Any], message: str) -> str:
    """The values that the rule speaks of, else the first few."""
    spoken = [name for name in assignment if name.rpartition(".")[2] in message]
    shown = [f"{name} = {json.dumps(assignment[name])}" for name in (spoken or list(assignment))[:4]]
    return f" (at {', '.join(shown)})" if shown else ""
