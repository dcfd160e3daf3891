"""Passwords on a command line, which every user of the machine can read in the list of processes.

A process that was started with one starts itself again without it: the value moves to the environment
variable that stands for the option, which only the same user can read. Slots, W&B and whatever else looks at
the command line see nothing of it then.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from urllib.parse import parse_qs, urlsplit

VARIABLES = {"--storage": "HMS_TUNE_STORAGE", "--password": "HMS_TUNE_DASHBOARD_PASSWORD"}


def conceal_passwords() -> None:
    """Start this process again if its command line holds a password; else return."""
    kept, moved = without_passwords(sys.orig_argv[1:])
    if moved and sys.executable and os.name == "posix":
        os.execve(sys.executable, [sys.executable, *kept], {**os.environ, **moved})


def without_passwords(arguments: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """The arguments that may be seen, and the environment variables that stand for the others."""
    kept: list[str] = []
    moved: dict[str, str] = {}
    rest = iter(arguments)
    for argument in rest:
        option, equals, value = argument.partition("=")
        if option not in VARIABLES:
            kept.append(argument)
            continue
        given = value if equals else next(rest, None)
        if given is not None and (option == "--password" or _holds_password(given)):
            moved[VARIABLES[option]] = given
        else:
            kept += [argument] if equals or given is None else [argument, given]
    return kept, moved


def _holds_password(url: str) -> bool:
    """Whether a database URL has one; what cannot be read is taken to have one."""
    credentials, at, _ = url.partition("://")[2].rpartition("@")
    if at and ":" in credentials:
        return True
    from hms_tune.database.url import SECRET_OPTIONS

    try:
        return not SECRET_OPTIONS.isdisjoint(parse_qs(urlsplit(url).query))
    except ValueError:
        return True
