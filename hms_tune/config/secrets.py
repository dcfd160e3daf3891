"""What is secret in a study file: the webhook's path, a command's arguments, comments.

Whoever has a webhook's address can write to the channel. The file's text is stored in the database and shown
in the dashboard, so others read it without these.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import yaml

from hms_tune.errors import ConfigError

VARIABLE = "HMS_TUNE_WEBHOOK"
HIDDEN = "***"
_COMMENT = re.compile(r"[ \t]*#[^\n]*")


def is_webhook(address: str) -> bool:
    """Whether this is an ``http`` or ``https`` address on one line."""
    try:
        parts = urlsplit(address)
        return (
            parts.scheme in ("http", "https")
            and bool(parts.hostname)
            and address.isprintable()
            and not set(address) & set(' "\\')
        )
    except ValueError:
        return False


def check_webhook(address: str | None, text: str, source: str) -> None:
    """Refuse what is no address, or stands in the study file in a form that cannot be found and taken out.

    Raises
    ------
    ConfigError
        Without the address: it may be nearly right.
    """
    if address is not None and not (is_webhook(address) and address in text):
        raise ConfigError(
            "tracking.notify.webhook must be an http:// or https:// address",
            where=source,
            hint=f"Write it on one line, without escapes, or set {VARIABLE} instead",
        )


def hidden(address: str) -> str:
    """The address as it may be printed and stored: ``https://hooks.example.org/***``."""
    parts = urlsplit(address)
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://{parts.hostname}{port}/{HIDDEN}"


def webhook_of(written: str | None) -> str | None:
    """The address to use: the environment's, else the one written in a study file.

    Parameters
    ----------
    written : ``tracking.notify.webhook``; one whose secret was taken out cannot be used
    """
    address = os.environ.get(VARIABLE, "").strip() or written
    return None if address is None or address.endswith(f"/{HIDDEN}") else address


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
