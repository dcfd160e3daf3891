"""The search space: a trial configuration in which any value may be a range.

A space is a tree. Its inner nodes are :class:`Group` (a mapping) and :class:`Choices`, whose branches may be
whole sub-trees with ranges of their own; its leaves are :class:`Fixed`, :class:`IntRange` and
:class:`FloatRange`. Ranges and choices are the *parameters* of the search. A parameter is named by its dotted
path; inside a branch the branch's label is part of the path::

    training.learning_rate
    training.scheduler                     one of "cosine", "plateau"
    training.scheduler.plateau.patience    exists only where training.scheduler is "plateau"

Trees come from :mod:`hms_tune.config.space_reading`, which also fills in every value that a study file leaves
out, so that two files that mean the same have the same space.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

Label = None | bool | int | float | str


@dataclass(frozen=True, slots=True)
class Fixed:
    """A value that is the same in every trial."""

    value: Any


@dataclass(frozen=True, slots=True)
class FloatRange:
    """``low ≤ x ≤ high``, uniform or uniform in the logarithm; with ``step`` only low, low + step, …"""

    low: float
    high: float
    log: bool = False
    step: float | None = None


@dataclass(frozen=True, slots=True)
class IntRange:
    """Whole numbers ``low, low + step, …, high``, uniform or uniform in the logarithm."""

    low: int
    high: int
    log: bool = False
    step: int = 1


@dataclass(frozen=True, slots=True)
class Branch:
    """One of several choices. ``label`` is the value that the search sees and the database stores."""

    label: Label
    node: Node


@dataclass(frozen=True, slots=True)
class Choices:
    """One of several branches, without an order."""

    branches: tuple[Branch, ...]

    def branch(self, label: Label) -> Branch:
        """The branch of this label."""
        return next(branch for branch in self.branches if branch.label == label)


@dataclass(frozen=True, slots=True)
class Group:
    """A mapping: a section of the configuration."""

    entries: Mapping[str, Node]


Range = FloatRange | IntRange
Searched = FloatRange | IntRange | Choices
Node = Fixed | FloatRange | IntRange | Choices | Group


@dataclass(frozen=True, slots=True)
class Parameter:
    """A searched value. It exists in a trial where every ``(name, label)`` of ``condition`` holds."""

    name: str
    node: Searched
    condition: tuple[tuple[str, Label], ...] = ()


def join(name: str, key: Label) -> str:
    """The dotted name of a child; labels of branches are written as in JSON, words without quotes."""
    text = key if isinstance(key, str) else json.dumps(key)
    return f"{name}.{text}" if name else text


def parameters(
    node: Node, name: str = "", condition: tuple[tuple[str, Label], ...] = ()
) -> Iterator[Parameter]:
    """Every parameter of a space, conditional ones after the choice they hang on."""
    match node:
        case FloatRange() | IntRange():
            yield Parameter(name, node, condition)
        case Choices(branches):
            yield Parameter(name, node, condition)
            for branch in branches:
                yield from parameters(
                    branch.node, join(name, branch.label), (*condition, (name, branch.label))
                )
        case Group(entries):
            for key, child in entries.items():
                yield from parameters(child, join(name, key), condition)
        case Fixed():
            return


def resolve(node: Node, choose: Callable[[str, Searched], Any], name: str = "") -> Any:
    """A plain value of the space: ``choose`` gives a number for a range and a label for choices."""
    match node:
        case Fixed(value):
            return value
        case FloatRange() | IntRange():
            return choose(name, node)
        case Choices():
            branch = node.branch(choose(name, node))
            return resolve(branch.node, choose, join(name, branch.label))
        case Group(entries):
            return {key: resolve(child, choose, join(name, key)) for key, child in entries.items()}


def assignments(
    node: Node, values: Callable[[str, Range], Sequence[float]], name: str = ""
) -> Iterator[dict[str, Any]]:
    """Every combination of parameter values, where ``values`` lists those of a range.

    Only parameters that exist together appear together, so each combination is a different configuration.
    """
    match node:
        case Fixed():
            yield {}
        case FloatRange() | IntRange():
            for value in values(name, node):
                yield {name: value}
        case Choices(branches):
            for branch in branches:
                for inner in assignments(branch.node, values, join(name, branch.label)):
                    yield {name: branch.label, **inner}
        case Group(entries):
            yield from _product(list(entries.items()), values, name)


def _product(
    entries: list[tuple[str, Node]], values: Callable[[str, Range], Sequence[float]], name: str
) -> Iterator[dict[str, Any]]:
    if not entries:
        yield {}
        return
    (key, child), rest = entries[0], entries[1:]
    for first in assignments(child, values, join(name, key)):
        for others in _product(rest, values, name):
            yield {**first, **others}


def combinations(node: Node, values: Callable[[str, Range], Sequence[float]], name: str = "") -> int:
    """How many :func:`assignments` there are, without making them."""
    match node:
        case Fixed():
            return 1
        case FloatRange() | IntRange():
            return len(values(name, node))
        case Choices(branches):
            return sum(combinations(branch.node, values, join(name, branch.label)) for branch in branches)
        case Group(entries):
            return math.prod(combinations(child, values, join(name, key)) for key, child in entries.items())


def corner_values(name: str, node: Range) -> Sequence[float]:
    """The ends of a range, where bounds between several values break first."""
    return (node.low,) if node.low == node.high else (node.low, node.high)


def stepped_values(node: IntRange | FloatRange) -> Sequence[float]:
    """Every value of a range that has a step, from low to high."""
    if isinstance(node, IntRange):
        return range(node.low, node.high + 1, node.step)
    if node.low == node.high:
        return (node.low,)
    if node.step is None:
        raise ValueError("a continuous range has no list of values")
    low, step = Decimal(repr(node.low)), Decimal(repr(node.step))
    return [float(low + step * i) for i in range(int((Decimal(repr(node.high)) - low) // step) + 1)]


def numbers(node: Node, path: Sequence[str]) -> list[float]:
    """The least and largest numbers that the key at ``path`` can take, over all branches; without nulls.

    For example the largest of ``numbers(space, ("training", "epochs"))`` bounds the length of a fold.
    """
    match node:
        case Choices(branches):
            return [number for branch in branches for number in numbers(branch.node, path)]
        case Group(entries):
            return numbers(entries[path[0]], path[1:]) if path and path[0] in entries else []
        case FloatRange() | IntRange():
            return [node.low, node.high]
        case Fixed(value):
            return [value] if isinstance(value, int | float) and not isinstance(value, bool) else []


def keep_only(node: Node, keys: frozenset[str]) -> Node:
    """The space with only these keys of a section; choices between sections stay."""
    match node:
        case Choices(branches):
            return Choices(tuple(Branch(branch.label, keep_only(branch.node, keys)) for branch in branches))
        case Group(entries):
            return Group({key: child for key, child in entries.items() if key in keys})
        case _:
            return node


def to_plain(node: Node) -> Any:
    """The space as JSON types; equal spaces, equal values."""
    match node:
        case Fixed(value):
            return value
        case FloatRange() | IntRange():
            return {"low": node.low, "high": node.high, "log": node.log, "step": node.step}
        case Choices(branches):
            return {
                "choices": [{"label": branch.label, "value": to_plain(branch.node)} for branch in branches]
            }
        case Group(entries):
            return {key: to_plain(child) for key, child in entries.items()}


def canonical_json(node: Node) -> str:
    """The space as JSON with sorted keys and no spaces."""
    return json.dumps(to_plain(node), sort_keys=True, separators=(",", ":"))


def space_hash(node: Node) -> str:
    """The first 16 hexadecimal digits of the canonical JSON's SHA-256."""
    return hashlib.sha256(canonical_json(node).encode()).hexdigest()[:16]


def differences(old: Node, new: Node) -> dict[str, tuple[str, str]]:
    """Dotted keys at which two spaces differ, with the old and the new part as text."""
    found: dict[str, tuple[str, str]] = {}

    def compare(before: Node, after: Node, name: str) -> None:
        if isinstance(before, Group) and isinstance(after, Group):
            for key in before.entries.keys() | after.entries.keys():
                compare(
                    before.entries.get(key, Fixed(None)), after.entries.get(key, Fixed(None)), join(name, key)
                )
        elif canonical_json(before) != canonical_json(after):
            found[name] = (describe(before), describe(after))

    compare(old, new, "")
    return dict(sorted(found.items()))


def value_text(value: object) -> str:
    """A parameter's value to the digits that a person compares; a dash if there is none."""
    if value is None:
        return "–"
    if isinstance(value, list):
        return ", ".join(map(value_text, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def describe(node: Node) -> str:
    """A node in a few words, for tables and errors."""
    match node:
        case Fixed(value):
            return value if isinstance(value, str) else json.dumps(value)
        case FloatRange(low, high, log, step) | IntRange(low, high, log, step):
            words = f"{low:g} to {high:g}"
            if log:
                words += ", log"
            plain = step is None or (isinstance(node, IntRange) and step == 1)
            return words if plain else f"{words}, step {step:g}"
        case Choices(branches):
            return " | ".join(map(_describe_branch, branches))
        case Group(entries):
            return "{" + ", ".join(f"{key}: {describe(child)}" for key, child in entries.items()) + "}"


def _describe_branch(branch: Branch) -> str:
    label = describe(Fixed(branch.label))
    return f"{label} ({describe(branch.node)})" if isinstance(branch.node, FloatRange | IntRange) else label
