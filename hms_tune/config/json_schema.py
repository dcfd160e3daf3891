"""The JSON schema of study files, for editors.

``python -m hms_tune.config.json_schema > studies/study.schema.json`` writes it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any

from hms_tune.config.study_file import SECTIONS, STUDY_NAME
from hms_tune.config.trial import TrialConfig

Schema = dict[str, Any]

LINE_LEVEL = 4
"""Nesting from which on the schema's text stays on one line."""


def study_schema() -> Schema:
    """The schema: that of a trial configuration, with every value widened to value, range or choices."""
    definitions: Schema = {}
    trial = TrialConfig.model_json_schema(ref_template="#/$defs/{model}")
    nested = trial.pop("$defs")
    for name, definition in nested.items():
        definitions[name] = _section(definition, _short_names(nested), searched=name != "DataConfig")
    data = definitions["DataConfig"]["properties"]
    data["folds"] = _widen(data["folds"])
    data["root"] = {"type": ["string", "null"], "description": "Competition folder on this machine."}
    properties: Schema = {
        "study": {
            "type": "string",
            "pattern": f"^{STUDY_NAME.pattern}$",
            "description": "Name of the study, also in the database.",
        }
    }
    for name, section in trial["properties"].items():
        properties[name] = _reference(section) if name == "data" else _widen(_reference(section))
    for name, model in SECTIONS.items():
        schema = model.model_json_schema(ref_template="#/$defs/{model}")
        nested = schema.pop("$defs", {})
        for part, definition in nested.items():
            definitions[part] = _section(definition, _short_names(nested), searched=False)
        properties[name] = _section(schema, _short_names(nested), searched=False)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "hms-tune study file",
        "type": "object",
        "required": ["study"],
        "additionalProperties": False,
        "properties": properties,
        "$defs": dict(sorted(definitions.items())),
    }


def _section(definition: Schema, short_names: Mapping[str, Schema], *, searched: bool) -> Schema:
    properties = {}
    for key, schema in definition.get("properties", {}).items():
        plain = _shorthand({name: value for name, value in schema.items() if name != "title"}, short_names)
        if isinstance(each := plain.get("additionalProperties"), dict):  # a mapping with free names
            plain["additionalProperties"] = _widen(_shorthand(each, short_names))
        properties[key] = _widen(plain) if searched and key != "name" else plain
    required = ["name"] if "name" in properties else []
    section: Schema = {"type": "object", "additionalProperties": False, "properties": properties}
    if "description" in definition:
        section["description"] = definition["description"]
    return section | ({"required": required} if required else {})


def _reference(schema: Schema) -> Schema:
    return {key: value for key, value in schema.items() if key in ("$ref", "description")}


def _short_names(definitions: Schema) -> dict[str, Schema]:
    """The name of every section that can be given by its name alone, by the reference to it."""
    names = {key: part.get("properties", {}).get("name") for key, part in definitions.items()}
    return {f"#/$defs/{key}": name for key, name in names.items() if name is not None}


def _shorthand(schema: Schema, short_names: Mapping[str, Schema]) -> Schema:
    """``adamw`` is short for ``{name: adamw}``; pydantic's schema does not show validators."""
    options = _alternatives(schema)
    names = [short_names[option["$ref"]] for option in options if option.get("$ref") in short_names]
    if not names:
        return schema
    fixed = sorted(name["const"] for name in names if "const" in name)
    patterns = [{"type": "string", "pattern": name["pattern"]} for name in names if "pattern" in name]
    described = {key: value for key, value in schema.items() if key in ("description", "default")}
    return {"anyOf": [{"enum": fixed}, *patterns, *options], **described}


def _alternatives(schema: Schema) -> list[Schema]:
    """The options of a value, those of nested options included."""
    for union in ("anyOf", "oneOf"):
        if union in schema:
            return [option for part in schema[union] for option in _alternatives(part)]
    return [schema]


def _widen(schema: Schema) -> Schema:
    about = {key: value for key, value in schema.items() if key in ("description", "default")}
    value = {key: part for key, part in schema.items() if key not in about}
    options = [*value["anyOf"]] if set(value) == {"anyOf"} else [value]
    numbers = [option for option in options if option.get("type") in ("integer", "number")]
    options += [_range(option) for option in numbers if "enum" not in option]
    choices = {
        "type": "object",
        "required": ["choices"],
        "additionalProperties": False,
        "properties": {"choices": {"type": "array", "minItems": 1, "items": {"anyOf": options}}},
    }
    return {"anyOf": [*options, choices], **about}


def _range(number: Schema) -> Schema:
    """A range whose ends lie within the bounds of the value."""
    return {
        "type": "object",
        "required": ["low", "high"],
        "additionalProperties": False,
        "properties": {
            "low": number,
            "high": number,
            "log": {"type": "boolean", "description": "Uniform in the logarithm."},
            "step": {"type": number["type"], "exclusiveMinimum": 0, "description": "Distance of two values."},
        },
    }


def schema_text() -> str:
    """The schema as it is committed."""
    return _rendered(study_schema(), level=0) + "\n"


def _rendered(value: Any, *, level: int) -> str:
    """JSON with one line for each key of a section, so that a change shows where it was made."""
    if not isinstance(value, dict) or not value or level >= LINE_LEVEL:
        return json.dumps(value, ensure_ascii=False)
    indent = "  " * level
    lines = [
        f"{indent}  {json.dumps(key)}: {_rendered(part, level=level + 1)}" for key, part in value.items()
    ]
    return "{\n" + ",\n".join(lines) + f"\n{indent}}}"


if __name__ == "__main__":
    sys.stdout.write(schema_text())
