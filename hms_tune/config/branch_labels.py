"""What the branches of choices are called: the value that the search draws and the database stores."""

from __future__ import annotations

import json
from typing import Any

from hms_tune.config.ranges import Label
from hms_tune.config.yaml_lines import Located

LABEL_KEYS = ("name", "kind", "backbone")
"""The first of these keys that a branch holds is its label."""


def branch_labels(items: tuple[Located, ...]) -> list[Label]:
    """What tells the branches apart: short where that is enough, else the branch as JSON."""
    short = [_short_label(item) for item in items]
    return [
        _compact(item.plain()) if item.mapping is not None and short.count(label) > 1 else label
        for item, label in zip(items, short, strict=True)
    ]


def _short_label(item: Located) -> Label:
    if isinstance(item.value, tuple):
        return _compact(item.plain())
    if not isinstance(item.value, dict):
        return item.plain()  # type: ignore[no-any-return]
    if "choices" in item.value:
        return "choices"
    if "low" in item.value or "high" in item.value:
        return "range"
    for key in LABEL_KEYS:
        if key in item.value and isinstance(item.value[key].value, str):
            return str(item.value[key].value)
    return "+".join(item.value) if _holds_range(item) else _compact(item.plain())


def _holds_range(item: Located) -> bool:
    entries = item.mapping
    if entries is None:
        return False
    return bool({"low", "high", "choices"} & entries.keys()) or any(map(_holds_range, entries.values()))


def _compact(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
