"""From located YAML to a space tree, guided by the pydantic models of the configuration.

The models say which keys exist, what each takes and within which bounds; this reader adds what they cannot:
ranges in place of values, the line of every mistake, and the nearest valid key.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from hms_tune.config.branch_labels import branch_labels
from hms_tune.config.ranges import (
    Branch,
    Choices,
    Fixed,
    FloatRange,
    Group,
    IntRange,
    Node,
    Range,
    Searched,
    join,
    resolve,
    stepped_values,
)
from hms_tune.config.section import Section
from hms_tune.config.yaml_lines import Located, Source, as_located, nearest

RANGE_KEYS = ["low", "high", "log", "step"]


@dataclass(frozen=True, slots=True)
class Field:
    """What a key of the configuration takes.

    ``words``: those that it may be; ``each``: what the entries of a mapping with free names take.
    """

    sections: tuple[type[Section], ...]
    discriminator: str | None
    nullable: bool
    number: Literal["int", "float"] | None
    adapter: TypeAdapter[Any]
    words: tuple[str, ...] = ()
    each: Field | None = None

    def validate(self, value: Any) -> Any:
        """The value as JSON types, within the key's bounds. Raises ValueError with one clause."""
        try:
            valid = self.adapter.validate_json(json.dumps(value), strict=True)
        except ValidationError as error:
            clauses = dict.fromkeys(_clause(found["msg"]) for found in error.errors())
            near = nearest(value, self.words) if isinstance(value, str) and self.words else ""
            meant = f"; {near}" if near.startswith("nearest") else ""
            raise ValueError(f"{' or '.join(clauses)}, got {json.dumps(value)}{meant}") from None
        return self.adapter.dump_python(valid, mode="json")


@cache
def field_of(model: type[BaseModel], key: str) -> Field:
    """What ``key`` of ``model`` takes."""
    info = model.model_fields[key]
    if get_origin(info.annotation) is dict:
        each = _field(FieldInfo.from_annotation(get_args(info.annotation)[1]))
        return Field((), None, False, None, _adapter(info, sections=True), each=each)
    return _field(info)


def _field(info: FieldInfo) -> Field:
    kinds = _alternatives(info.annotation)
    sections = tuple(kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Section))
    number: Literal["int", "float"] | None = "float" if float in kinds else "int" if int in kinds else None
    return Field(
        sections=sections,
        discriminator="name" if any("name" in section.model_fields for section in sections) else None,
        nullable=NoneType in kinds,
        number=number,
        adapter=_adapter(info, sections=bool(sections)),
        words=tuple(word for kind in kinds for word in _words(kind)),
    )


def dotted_keys(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Every key of a section and of those in it, such as ``training.optimizer.momentum``."""
    for key in model.model_fields:
        yield join(prefix, key)
        for section in field_of(model, key).sections:
            yield from dotted_keys(section, join(prefix, key))


def _alternatives(annotation: Any) -> tuple[Any, ...]:
    origin = get_origin(annotation)
    if origin is Annotated:
        return _alternatives(get_args(annotation)[0])
    if origin in (Union, UnionType):
        return tuple(kind for part in get_args(annotation) for kind in _alternatives(part))
    return (annotation,)


def _words(kind: Any) -> tuple[str, ...]:
    values = get_args(kind) if get_origin(kind) is Literal else ()
    return tuple(value for value in values if isinstance(value, str))


def _adapter(info: FieldInfo, *, sections: bool) -> TypeAdapter[Any]:
    annotation: Any = Annotated[info.annotation, info]
    return TypeAdapter(annotation, config=None if sections else ConfigDict(allow_inf_nan=False))


def _clause(message: str) -> str:
    message = message.removeprefix("Value error, ")
    return message[:1].lower() + message[1:]


def read_values(values: Any, model: type[BaseModel], source: Source, name: str = "") -> Any:
    """What ``model`` is made from, without ranges, complete with every default.

    Parameters
    ----------
    values : a mapping, plain or located
    name : the dotted key at which it stands

    Raises
    ------
    ConfigError
        If a key is unknown, or a value does not fit.
    """
    whole = values if isinstance(values, Located) else as_located(values)
    group = ConfigReader(source, searchable=False).section(whole, model, name)
    return resolve(group, _nothing_to_choose)


def _nothing_to_choose(name: str, node: Searched) -> Any:
    raise AssertionError(f"{name} is searched in a section that is not")


class ConfigReader:
    """Reads sections of a study file.

    Parameters
    ----------
    source : where the text came from, for errors
    searchable : whether a value may be a range
    """

    def __init__(self, source: Source, *, searchable: bool) -> None:
        self.source = source
        self.searchable = searchable
        self.lines: dict[str, int] = {}

    def section(self, located: Located, model: type[BaseModel], name: str) -> Group:
        """Read a mapping with the keys of ``model``; keys left out get their defaults."""
        self.lines[name] = located.line
        entries = self.source.check_keys(located, list(model.model_fields), name or "the study file")
        nodes: dict[str, Node] = {}
        for key, info in model.model_fields.items():
            child = join(name, key)
            if key in entries:
                nodes[key] = self.field(entries[key], field_of(model, key), child)
            elif info.is_required():
                self.source.fail(f"{name} needs the key {key}", located.line)
            else:
                nodes[key] = _default(info)
        return Group(nodes)

    def field(self, located: Located, field: Field, name: str) -> Node:
        """Read a value, a range, choices, or a section."""
        self.lines[name] = located.line
        entries = located.mapping
        if self.searchable and entries is not None:
            if "choices" in entries:
                return self._choices(located, field, name)
            if field.each is None and ("low" in entries or "high" in entries):
                return self._range(located, field, name)
        if field.each is not None and entries is not None:
            each = field.each
            return Group({key: self.field(child, each, join(name, key)) for key, child in entries.items()})
        if field.sections:
            return self._section(located, field, name)
        if entries is not None:
            takes = "a value or a range" if self.searchable else "one value"
            self.source.fail(
                f"{name} takes {takes}, not a mapping", located.line, _range_hint(self.searchable)
            )
        return Fixed(self._leaf(located, field, name))

    def _leaf(self, located: Located, field: Field, name: str) -> Any:
        if isinstance(located.value, tuple) and any(item.mapping is not None for item in located.value):
            self.source.fail(
                f"{name}: a range cannot stand inside a list; use choices of whole lists", located.line
            )
        try:
            return field.validate(located.plain())
        except ValueError as error:
            self.source.fail(f"{name}: {error}", located.line)

    def _section(self, located: Located, field: Field, name: str) -> Node:
        if located.value is None and field.nullable:
            return Fixed(None)
        if field.discriminator is None:
            return self.section(located, field.sections[0], name)
        variants = {
            _variant_name(section, field.discriminator): section
            for section in field.sections
            if not section.model_fields[field.discriminator].is_required()
        }
        any_other = next((section for section in field.sections if section not in variants.values()), None)
        entries = located.mapping
        if entries is None:
            chosen: object = located.value
            located = Located({}, located.line)
        elif field.discriminator not in entries:
            self.source.fail(f"{name} needs {field.discriminator}: {' | '.join(variants)}", located.line)
        else:
            chosen = entries[field.discriminator].value
            rest = {key: child for key, child in entries.items() if key != field.discriminator}
            located = Located(rest, located.line)
        if not isinstance(chosen, str):
            hint = f"Write {name}: {{choices: [{', '.join(variants)}]}} to search over them"
            self.source.fail(
                f"{field.discriminator} of {name} must be one of {', '.join(variants)}", located.line, hint
            )
        if chosen not in variants and any_other is not None and _takes_name(any_other, field, chosen):
            content = {field.discriminator: Located(chosen, located.line), **(located.mapping or {})}
            return self.section(Located(content, located.line), any_other, name)
        if chosen not in variants:
            more = () if any_other is None else any_other.further_names()
            near = nearest(chosen, [*variants, *more])
            told = near if near.startswith("nearest") else nearest(chosen, list(variants))
            self.source.fail(f'{name}: unknown {field.discriminator} "{chosen}"; {told}', located.line)
        return self.section(located, variants[chosen], name)

    def _range(self, located: Located, field: Field, name: str) -> Range:
        entries = self.source.check_keys(located, RANGE_KEYS, f"the range of {name}")
        if field.number is None:
            self.source.fail(f"{name} is no number and takes no range; use choices", located.line)
        for end in ("low", "high"):
            if end not in entries:
                self.source.fail(f"the range of {name} needs {end}", located.line)
        low, high = (self._end(entries[end], field, f"{end} of {name}") for end in ("low", "high"))
        log = self._log(entries, name)
        if low > high:
            self.source.fail(f"{name}: low {low:g} exceeds high {high:g}", entries["low"].line)
        if log and low <= 0:
            self.source.fail(
                f"{name}: a logarithmic range needs low above 0, got {low:g}", entries["low"].line
            )
        step = self._step(entries, field, name, log=log)
        if field.number == "int":
            whole = IntRange(int(low), int(high), log, int(step or 1))
            return IntRange(whole.low, int(stepped_values(whole)[-1]), log, whole.step)
        if step is None:
            return FloatRange(float(low), float(high), log)
        if (high - low) / step > 1_000_000:
            self.source.fail(f"{name}: step {step:g} makes more than a million values", entries["step"].line)
        return FloatRange(float(low), stepped_values(FloatRange(low, high, log, step))[-1], log, step)

    def _end(self, located: Located, field: Field, name: str) -> float:
        value = located.value
        if isinstance(value, bool) or not isinstance(value, int | float):
            self.source.fail(f"{name} must be a number, got {json.dumps(located.plain())}", located.line)
        if field.number == "int" and isinstance(value, float):
            self.source.fail(f"{name} must be a whole number, got {value!r}", located.line)
        try:
            return float(field.validate(value)) if field.number == "float" else int(field.validate(value))
        except ValueError as error:
            self.source.fail(f"{name}: {error}", located.line)

    def _log(self, entries: Any, name: str) -> bool:
        value = entries["log"].value if "log" in entries else False
        if not isinstance(value, bool):
            self.source.fail(f"log of {name} must be true or false", entries["log"].line)
        return value

    def _step(self, entries: Any, field: Field, name: str, *, log: bool) -> float | None:
        if "step" not in entries or entries["step"].value is None:
            return None
        value, line = entries["step"].value, entries["step"].line
        if isinstance(value, bool) or not isinstance(value, int | float):
            self.source.fail(f"step of {name} must be a number", line)
        if field.number == "int" and isinstance(value, float):
            self.source.fail(f"step of {name} must be a whole number, got {value!r}", line)
        if not 0 < value < float("inf"):
            self.source.fail(f"step of {name} must be above 0, got {value:g}", line)
        if log:
            self.source.fail(f"{name}: a range has either log or step, not both", line)
        return value

    def _choices(self, located: Located, field: Field, name: str) -> Choices:
        entries = self.source.check_keys(located, ["choices"], f"the choices of {name}")
        items = entries["choices"].value
        if not isinstance(items, tuple) or not items:
            self.source.fail(
                f"choices of {name} must be a list of at least one value", entries["choices"].line
            )
        branches: list[Branch] = []
        for item, label in zip(items, branch_labels(items), strict=True):
            node = self.field(item, field, name if item.mapping is None else join(name, label))
            if isinstance(node, Fixed) and not isinstance(node.value, list):
                label = node.value  # noqa: PLW2901 (as the field reads it: 1 is 1.0 where a float is wanted)
            if any(branch.label == label for branch in branches):
                self.source.fail(f"choices of {name} hold {json.dumps(item.plain())} twice", item.line)
            branches.append(Branch(label, node))
        self.lines[name] = located.line
        return Choices(tuple(branches))


def _range_hint(searchable: bool) -> str:
    if searchable:
        return "A range is {low: …, high: …} or {choices: […]}"
    return "Only data, input, augmentation, model and training hold ranges"


def _takes_name(section: type[BaseModel], field: Field, name: str) -> bool:
    try:
        field_of(section, field.discriminator or "").validate(name)
    except ValueError:
        return False
    return True


def _variant_name(section: type[BaseModel], discriminator: str) -> str:
    name: str = section.model_fields[discriminator].default
    return name


def _default(info: FieldInfo) -> Node:
    return _tree(TypeAdapter(Any).dump_python(info.get_default(call_default_factory=True), mode="json"))


def _tree(value: Any) -> Node:
    if isinstance(value, dict):
        return Group({key: _tree(child) for key, child in value.items()})
    return Fixed(value)
