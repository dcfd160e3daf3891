"""The dashboard under a path that is not the root of its host, as behind a reverse proxy.

optuna-dashboard writes its paths into its page and its script as if it had a host of its own. Here they are
written anew, once, and its redirections as they come.
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import optuna_dashboard

from hms_tune.errors import UsageError
from hms_tune.reports.dashboard.access import Environment, Gate
from hms_tune.reports.dashboard.dashboard_private import PAGE, PATHS_IN_PAGE, PATHS_IN_SCRIPT, SCRIPT

_PREFIX = re.compile(r"(/[A-Za-z0-9._~-]+)+")


class Prefixed:
    """A WSGI application that answers for another under a prefix.

    A proxy may pass the path on whole, or without the prefix.

    Parameters
    ----------
    prefix : such as ``/hms-tune``

    Raises
    ------
    UsageError
        If that is no path, or this version of optuna-dashboard is written otherwise than expected.
    """

    def __init__(self, application: Gate, prefix: str) -> None:
        if not _PREFIX.fullmatch(prefix):
            raise UsageError(
                f'"{prefix}" is no path',
                where="--prefix",
                hint="Name one such as /hms-tune, without an end slash",
            )
        self._application = application
        self._prefix = prefix
        folder = Path(optuna_dashboard.__file__).parent
        self._page = _moved((folder / PAGE).read_text("utf-8"), PATHS_IN_PAGE, prefix)
        self._script = _moved((folder / SCRIPT).read_text("utf-8"), PATHS_IN_SCRIPT, prefix)
        self._packed = gzip.compress(self._script, compresslevel=6)

    def __call__(self, environment: Environment, start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Answer a request (PEP 3333)."""
        path = environment.get("PATH_INFO", "")
        if path == self._prefix or path.startswith(f"{self._prefix}/"):
            path = path[len(self._prefix) :] or "/"
        environment |= {"SCRIPT_NAME": self._prefix, "PATH_INFO": path}
        asked = environment.get("HTTP_ACCEPT_ENCODING", "")
        instead: tuple[bytes, str | None] | None = None
        if path == "/dashboard" or path.startswith("/dashboard/"):
            instead = self._page, None
        elif path == "/static/bundle.js":
            instead = (self._packed, "gzip") if "gzip" in asked else (self._script, None)
        replaced = False

        def start(status: str, headers: list[tuple[str, str]], *rest: Any) -> Any:
            nonlocal replaced
            headers = [(name, self._there(name, value)) for name, value in headers]
            if instead is not None and status.startswith("200"):
                replaced = True
                headers = _described(headers, *instead)
            return start_response(status, headers, *rest)

        answer = self._application(environment, start)
        if not replaced or instead is None or environment["REQUEST_METHOD"] == "HEAD":
            return answer
        if hasattr(answer, "close"):
            answer.close()
        return [instead[0]]

    def admits(self, environment: Environment) -> bool:
        """As the other does."""
        return self._application.admits(environment)

    def _there(self, name: str, value: str) -> str:
        """A header; a redirection leads below the prefix."""
        if name.lower() != "location":
            return value
        parts = urlsplit(value)
        if parts.path.startswith(f"{self._prefix}/"):
            return value
        path = self._prefix + parts.path
        return urlunsplit((parts.scheme, parts.netloc, path, parts.query, parts.fragment))


def _described(headers: list[tuple[str, str]], content: bytes, packed: str | None) -> list[tuple[str, str]]:
    own = {"content-length", "content-encoding", "last-modified", "etag", "accept-ranges"}
    kept = [(name, value) for name, value in headers if name.lower() not in own]
    return [
        *kept,
        ("Content-Length", str(len(content))),
        *([] if packed is None else [("Content-Encoding", packed), ("Vary", "Accept-Encoding")]),
    ]


def _moved(text: str, paths: Iterable[tuple[str, str]], prefix: str) -> bytes:
    """The text with its paths below the prefix."""
    for before, path in paths:
        if before + path not in text:
            raise UsageError(
                f"optuna-dashboard {optuna_dashboard.__version__} cannot be served under a prefix: "
                f"its pages name {path} otherwise than expected",
                where="--prefix",
                hint="Give the dashboard a host name of its own (docs/fleet.md)",
            )
        text = text.replace(before + path, before + prefix + path)
    return text.encode()
