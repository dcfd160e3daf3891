"""Whether there is somebody to log in as."""

from __future__ import annotations

import netrc
import os
from typing import Literal
from urllib.parse import urlsplit

Mode = Literal["auto", "online", "offline", "off"]


def resolve_mode(mode: Mode) -> Literal["online", "offline", "off"]:
    """What ``auto`` means here: online when a key is at hand, offline otherwise.

    The variable ``WANDB_MODE`` (online, offline, disabled) decides ``auto`` when it is set.
    """
    if mode != "auto":
        return mode
    asked = os.environ.get("WANDB_MODE", "")
    if asked in ("online", "offline"):
        return "online" if asked == "online" else "offline"
    if asked in ("disabled", "dryrun"):
        return "off" if asked == "disabled" else "offline"
    return "online" if _has_key() else "offline"


def _has_key() -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname
    try:
        return host is not None and netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False
