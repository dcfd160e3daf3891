"""Who may use the dashboard, and for what; the dashboard itself asks nobody.

:class:`Gatekeeper` stands before a WSGI application and refuses

* everything, without the password, where one is set (HTTP basic authentication, any user name), and for a
  while whatever comes from an address that guesses;
* where none is set, other users of this machine, and requests that do not name this machine itself: a page
  elsewhere whose name was made to point here (DNS rebinding) would otherwise read the studies through its
  visitor's browser;
* what another site's page asks for in its visitor's browser;
* whatever would change something, unless the dashboard is writable.

Nothing that comes out is another site's to read or to show, and only the dashboard's own page runs scripts: a
file that somebody attached is downloaded, or shown as a picture in that page, whatever its type.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import ipaddress
import json
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import urlsplit, urlunsplit

from hms_tune.reports.dashboard.tries import PAUSE_S, Tries, address_of, user_of_peer

Environment = dict[str, Any]
StartResponse = Callable[..., Any]
Application = Callable[[Environment, StartResponse], Iterable[bytes]]

READING = frozenset({"GET", "HEAD", "OPTIONS"})
READ_ONLY = "this dashboard is read-only; hms-tune dashboard --writable serves one that can change studies"
_DRAINED_BYTES = 1 << 20
_LENGTH = re.compile(r"[0-9]{1,15}")
_HOST = re.compile(r"([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?")
_FORWARDED = ("HTTP_X_FORWARDED_", "HTTP_FORWARDED")
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


class Gate(Protocol):
    """A WSGI application that says whose requests may bring much along."""

    def __call__(self, environment: Environment, start_response: StartResponse, /) -> Iterable[bytes]:
        """Answer a request (PEP 3333)."""

    def admits(self, environment: Environment) -> bool:
        """Whether a request with these headers may change something, so that its body is to be read."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a request is not answered, with an HTTP status."""

    status: str
    reason: str
    headers: tuple[tuple[str, str], ...] = ()


_UNKNOWN = Refusal(
    "401 Unauthorized",
    "a password is needed",
    (("WWW-Authenticate", 'Basic realm="hms-tune", charset="UTF-8"'),),
)
_PAUSING = Refusal(
    "429 Too Many Requests",
    "too many wrong passwords came from here",
    (("Retry-After", f"{PAUSE_S:.0f}"),),
)


class Gatekeeper:
    """A WSGI application that passes allowed requests on to another.

    Parameters
    ----------
    password : asked of everyone; None: of nobody
    writable : whether requests may change something
    proxy : user id of a reverse proxy on this machine; None: there is none
    """

    def __init__(
        self, application: Application, *, password: str | None, writable: bool, proxy: int | None = None
    ) -> None:
        self._application = application
        self._password = None if password is None else _digest(password.encode())
        self._tries = Tries()
        self._writable = writable
        self._proxy = proxy
        self._users = (os.getuid(), 0, proxy, None)  # None: the system does not tell

    def __call__(self, environment: Environment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer a request (PEP 3333)."""
        refusal = self._refusal(environment)
        if refusal is not None:
            if refusal is _UNKNOWN and "HTTP_AUTHORIZATION" in environment:
                self._tries.add(self._address(environment))
            return refuse(environment, start_response, refusal)

        def start(status: str, headers: list[tuple[str, str]], *rest: Any) -> Any:
            return start_response(status, _guarded(headers, environment.get("PATH_INFO", "")), *rest)

        for name in [name for name, value in environment.items() if _is_nothing_to_it(name, value)]:
            del environment[name]
        environment.setdefault("HTTP_ACCEPT_ENCODING", "")  # the dashboard takes for granted that it is there
        return self._application(environment, start)

    def admits(self, environment: Environment) -> bool:
        """Whether a request with these headers may change something, so that its body is to be read."""
        return environment["REQUEST_METHOD"] not in READING and self._refusal(environment) is None

    def _refusal(self, environment: Environment) -> Refusal | None:
        if not _LENGTH.fullmatch(environment.get("CONTENT_LENGTH") or "0"):
            return Refusal("400 Bad Request", "Content-Length is no length")
        host = environment.get("HTTP_HOST", "")
        if host and not (_HOST.fullmatch(host) and _name(host)):
            return Refusal("400 Bad Request", "Host is no host's name")
        if _is_of_another_page(environment):
            return Refusal("403 Forbidden", "another site's page may ask nothing here")
        if self._password is not None and self._tries.pausing(self._address(environment)):
            return _PAUSING
        if not self._is_known(environment):
            return _UNKNOWN
        reason = self._reason_against(environment, host)
        return None if reason is None else Refusal("403 Forbidden", reason)

    def _address(self, environment: Environment) -> str:
        return address_of(environment, proxy=self._proxy)

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

    def _reason_against(self, environment: Environment, host: str) -> str | None:
        if self._password is None and not is_loopback(_name(host)):
            return "without a password this dashboard answers to 127.0.0.1 and localhost alone"
        if self._password is None and user_of_peer(environment) not in self._users:
            return "without a password this dashboard answers to the user who started it and to root alone"
        if environment["REQUEST_METHOD"] in READING:
            return None
        if not self._writable:
            return READ_ONLY
        origin = environment.get("HTTP_ORIGIN")
        if origin is not None and (_netloc(origin) or "nobody's") != host:
            return "another site's page may change nothing here"
        return None


def _is_nothing_to_it(name: str, value: Any) -> bool:
    """Whether a header is kept from the dashboard: what others say of a visitor, and what is no text."""
    if not name.startswith("HTTP_"):
        return False
    try:
        value.encode("latin-1").decode()
    except UnicodeError:
        return True
    return name.startswith(_FORWARDED)


def _is_of_another_page(environment: Environment) -> bool:
    """Whether a browser says that another site's page asks, and not somebody who follows a link.

    Before the password: such a page could let its visitor guess, until the visitor is refused.
    """
    from_another = environment.get("HTTP_SEC_FETCH_SITE") in ("cross-site", "same-site")
    return from_another and environment.get("HTTP_SEC_FETCH_MODE") != "navigate"


def _netloc(origin: str) -> str | None:
    """Host and port of an origin; None of what is none."""
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return None


def _guarded(headers: list[tuple[str, str]], path: str) -> list[tuple[str, str]]:
    """The headers of an answer, with those that keep it from other sites and from running as a page."""
    kept = [(name, _here(name, value)) for name, value in headers if name.lower() != _OPEN_TO_ALL]
    if all(name.lower() != _NO_PAGE[0].lower() for name, _ in kept):
        kept.append(_NO_PAGE)
    if path.lstrip("/").startswith("artifacts/"):
        kept.append(("Content-Disposition", "attachment"))
    return [*kept, *_HEADERS]


def _here(name: str, value: str) -> str:
    """A header; a redirection leads to a path of whatever host was asked, and never to another."""
    if name.lower() != "location":
        return value
    parts = urlsplit(value)
    return urlunsplit(("", "", parts.path, parts.query, parts.fragment))


def _name(host: str) -> str:
    """The name in a Host header, without its port."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _digest(text: bytes) -> bytes:
    return hashlib.sha256(text).digest()


def refuse(environment: Environment, start_response: StartResponse, refusal: Refusal) -> list[bytes]:
    """Answer a refused request: the page's own with JSON, whose ``reason`` it shows, others with text."""
    _drain(environment)
    is_api = environment.get("PATH_INFO", "").startswith("/api/")
    body = (json.dumps({"reason": refusal.reason}) if is_api else f"{refusal.reason}\n").encode()
    kind = "application/json" if is_api else "text/plain; charset=utf-8"
    length = ("Content-Length", str(len(body)))
    start_response(refusal.status, [("Content-Type", kind), length, *refusal.headers, *_HEADERS])
    return [body]


def _drain(environment: Environment) -> None:
    """Read the request's body: if the connection closed before, the answer would be lost."""
    sent = environment.get("CONTENT_LENGTH") or "0"
    if _LENGTH.fullmatch(sent):
        environment["wsgi.input"].read(min(int(sent), _DRAINED_BYTES))
