"""Addresses of webhooks. Whoever has one can write to the channel, so the path is a secret."""

from __future__ import annotations

import os
from collections.abc import Mapping
from urllib.parse import urlsplit

from hms_tune.errors import ConfigError

VARIABLE = "HMS_TUNE_WEBHOOK"
HIDDEN = "***"


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


def is_hidden(address: str) -> bool:
    """Whether the secret of this address was taken out."""
    return address.endswith(f"/{HIDDEN}")


def webhook_of(written: str | None, environ: Mapping[str, str] | None = None) -> str | None:
    """The address to use: the environment's, else the one written in a study file.

    Parameters
    ----------
    written : ``tracking.notify.webhook``; one whose secret was taken out cannot be used
    """
    environ = os.environ if environ is None else environ
    address = environ.get(VARIABLE, "").strip() or written
    return None if address is None or is_hidden(address) else address
