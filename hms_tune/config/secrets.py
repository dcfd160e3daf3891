"""A study file's text as others may read it: it is stored in the database, and shown in the dashboard."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import yaml

from hms_tune.config.webhook import HIDDEN, hidden

_COMMENT = re.compile(r"[ \t]*#[^\n]*")


def public_text(text: str, *, webhook: str | None, command: tuple[str, ...] | None) -> str:
    """The text of a checked study file without comments, the webhook's path and the command's arguments.

    Who may write what into a comment nobody can check: a second webhook, a password that was tried.
    """
    shown = _without_comments(text)
    if webhook is not None:
        shown = _replaced(shown, "webhook", hidden(webhook)).replace(webhook, hidden(webhook))
    if command is not None and len(command) > 1:
        shown = _replaced(shown, "command", [command[0], HIDDEN])
    return shown


def _without_comments(text: str) -> str:
    kept, at = [], 0
    for start, end in _between_tokens(text):
        kept += [text[at:start], _COMMENT.sub("", text[start:end])]
        at = end
    return "".join([*kept, text[at:]])


def _between_tokens(text: str) -> Iterator[tuple[int, int]]:
    """Where comments can stand. (The head of a block scalar is part of it; no value of ours needs one.)"""
    at = 0
    for token in yaml.scan(text, Loader=yaml.SafeLoader):
        if token.start_mark.index > at:
            yield at, token.start_mark.index
        at = max(at, token.end_mark.index)
    yield at, len(text)


def _replaced(text: str, key: str, value: object) -> str:
    """The text with another value of ``tracking.notify.<key>``."""
    node: Any = yaml.compose(text, Loader=yaml.SafeLoader)
    for name in ("tracking", "notify", key):
        assert isinstance(node, yaml.MappingNode)
        node = next(child for each, child in node.value if each.value == name)
    written = text[node.start_mark.index : node.end_mark.index]
    after = written[len(written.rstrip()) :] + text[node.end_mark.index :]
    # JSON is YAML. Escapes would not: a webhook is looked for as it is written.
    return f"{text[: node.start_mark.index].rstrip()} {json.dumps(value, ensure_ascii=False)}{after}"
