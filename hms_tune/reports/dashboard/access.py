"""Who may use the dashboard, and for what; the dashboard itself asks nobody.

:class:`Gatekeeper` stands before a WSGI application and refuses

* everything, without the password, where one is set (HTTP basic authentication, any user name), and for a
  while whatever comes from an address that guesses;
* where none is set, requests that do not name this machine itself: a page elsewhere whose name was made to
  point here (DNS rebinding) would otherwise read the studies through its visitor's browser;
* whatever would change something, unless the dashboard is writable, and then what another site's page asks
  for.

Nothing that comes out is another site's to read or to show, and only the dashboard's own page runs scripts: a
file that somebody attached is downloaded, or shown as a picture in that page, whatever its type.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import ipaddress
import json
import re
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import urlsplit

from hms_tune.reports.dashboard.tries import PAUSE_S, Tries, address_of

Environment = dict[str, Any]
StartResponse = Callable[..., Any]
Application = Callable[[Environment, StartResponse], Iterable[bytes]]

READING = frozenset({"GET", "HEAD", "OPTIONS"})
READ_ONLY = "this dashboard is read-only; hms-tune dashboard --writable serves one that can change studies"
_DRAINED_BYTES = 1 << 20
_LENGTH = re.compile(r"[0-9]{1,15}")
_HEADERS = [
    ("X-Frame-Options", "DENY"),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
]
_NO_PAGE = ("Content-Security-Policy", "default-src 'none'; sandbox; frame-ancestors 'none'")
"""Of every answer that brings no policy of its own, as the dashboard's page does."""
_OPEN_TO_ALL = "access-control-allow-origin"


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Gatekeeper:
    """A WSGI application that passes allowed requests on to another.

    Parameters
    ----------
    password : asked of everyone; None: of nobody
    writable : whether requests may change something
    """

    def __init__(self, application: Application, *, password: str | None, writable: bool) -> None:
        self._application = application
        self._password = None if password is None else _digest(password.encode())
        self._tries = Tries()
        self._writable = writable

    def __call__(self, environment: Environment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer a request (PEP 3333)."""
        if not _LENGTH.fullmatch(environment.get("CONTENT_LENGTH") or "0"):
            environment["CONTENT_LENGTH"] = ""
            return _refuse(environment, start_response, "400 Bad Request", "Content-Length is no length")
        address = address_of(environment)
        if self._password is not None and self._tries.pausing(address):
            pause = ("Retry-After", f"{PAUSE_S:.0f}")
            said = "too many wrong passwords came from here"
            return _refuse(environment, start_response, "429 Too Many Requests", said, pause)
        if not self._is_known(environment):
            if "HTTP_AUTHORIZATION" in environment:
                self._tries.add(address)
            challenge = ("WWW-Authenticate", 'Basic realm="hms-tune", charset="UTF-8"')
            return _refuse(environment, start_response, "401 Unauthorized", "a password is needed", challenge)
        reason = self._reason_against(environment)
        if reason is not None:
            return _refuse(environment, start_response, "403 Forbidden", reason)

        def start(status: str, headers: list[tuple[str, str]], *rest: Any) -> Any:
            return start_response(status, _guarded(headers, environment.get("PATH_INFO", "")), *rest)

        environment.setdefault("HTTP_ACCEPT_ENCODING", "")  # the dashboard takes for granted that it is there
        return self._application(environment, start)

    def _is_known(self, environment: Environment) -> bool:
        if self._password is None:
            return True
        scheme, _, credentials = environment.get("HTTP_AUTHORIZATION", "").partition(" ")
        if scheme.lower() != "basic":
            return False
        try:
            _, colon, given = base64.b64decode(credentials.strip(), validate=True).partition(b":")
        except ValueError:  # no ASCII, or no base64
            return False
        # Digests are equally long, so that not even the password's length shows in the time this takes.
        return bool(colon) and hmac.compare_digest(_digest(given), self._password)

    def _reason_against(self, environment: Environment) -> str | None:
        host = environment.get("HTTP_HOST", "")
        if self._password is None and not is_loopback(_name(host)):
            return "without a password this dashboard answers to 127.0.0.1 and localhost alone"
        if environment["REQUEST_METHOD"] in READING:
            return None
        if not self._writable:
            return READ_ONLY
        origin = environment.get("HTTP_ORIGIN")
        if origin is not None and _netloc(origin) != host:
            return "another site's page may change nothing here"
        return None


def _netloc(origin: str) -> str | None:
    """Host and port of an origin; None of what is none."""
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return None


def _guarded(headers: list[tuple[str, str]], path: str) -> list[tuple[str, str]]:
    """The headers of an answer, with those that keep it from other sites and from running as a page."""
    kept = [(name, value) for name, value in headers if name.lower() != _OPEN_TO_ALL]
    if all(name.lower() != _NO_PAGE[0].lower() for name, _ in kept):
        kept.append(_NO_PAGE)
    if path.lstrip("/").startswith("artifacts/"):
        kept.append(("Content-Disposition", "attachment"))
    return [*kept, *_HEADERS]


def _name(host: str) -> str:
    """The name in a Host header, without its port."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _digest(text: bytes) -> bytes:
    return hashlib.sha256(text).digest()


def _refuse(
    environment: Environment,
    start_response: StartResponse,
    status: str,
    reason: str,
    *headers: tuple[str, str],
) -> list[bytes]:
    """Answer a refused request: the page's own with JSON, whose ``reason`` it shows, others with text."""
    _drain(environment)
    is_api = environment.get("PATH_INFO", "").startswith("/api/")
    body = (json.dumps({"reason": reason}) if is_api else f"{reason}\n").encode()
    kind = "application/json" if is_api else "text/plain; charset=utf-8"
    length = ("Content-Length", str(len(body)))
    start_response(status, [("Content-Type", kind), length, *headers, *_HEADERS])
    return [body]


def _drain(environment: Environment) -> None:
    """Read the request's body: if the connection closed before, the answer would be lost."""
    sent = environment.get("CONTENT_LENGTH") or "0"
    environment["wsgi.input"].read(min(int(sent), _DRAINED_BYTES))
