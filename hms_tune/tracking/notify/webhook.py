"""Messages to people: a webhook that gets JSON, a command that gets it on standard input."""

from __future__ import annotations

import json
import os
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.client import HTTPException, HTTPMessage
from typing import IO, Any
from urllib.parse import urlsplit

from hms_tune.config.secrets import HIDDEN, hidden, webhook_of
from hms_tune.config.study_sections import NotifyConfig
from hms_tune.errors import NotificationError

Message = Mapping[str, Any]

TRIES = 3
TIMEOUT_S = 10.0
PAUSES_S = (1.0, 4.0)
"""Waits between one try and the next."""

_PROXIES = ("http_proxy", "https_proxy", "no_proxy")
_GIVEN = frozenset(
    {
        *("PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR"),
        *("DISPLAY", "DBUS_SESSION_BUS_ADDRESS", "XDG_RUNTIME_DIR"),  # of notify-send
        *_PROXIES,
        *map(str.upper, _PROXIES),
    }
)
"""What a command sees of the worker's environment, where passwords and keys stand."""


@dataclass(frozen=True, slots=True)
class Receivers:
    """Where messages go. The webhook is kept out of ``repr``."""

    webhook: str | None = field(default=None, repr=False)
    command: tuple[str, ...] | None = None

    @classmethod
    def of(cls, config: NotifyConfig) -> Receivers:
        """Those of a study file, with the environment's webhook before the file's."""
        command = config.command
        is_whole = command is not None and command[-1] != HIDDEN  # not that of a stored study file
        return cls(webhook_of(config.webhook), command if is_whole else None)

    def __bool__(self) -> bool:
        return self.webhook is not None or self.command is not None

    def described(self) -> str:
        """Both as they may be printed."""
        webhook = [] if self.webhook is None else [f"webhook {hidden(self.webhook)}"]
        return ", ".join([*webhook, *([] if self.command is None else [f"command {self.command[0]}"])])


def compose(event: str, study: str, text: str, **facts: Any) -> dict[str, Any]:
    """A message as a receiver gets it.

    ``text`` is what Slack, Mattermost and their like show, ``content`` what Discord shows; the rest is for
    programs.
    """
    return {"event": event, "study": study, "text": text, "content": text, **facts}


def deliver(
    receivers: Receivers,
    message: Message,
    *,
    tries: int = TRIES,
    timeout_s: float = TIMEOUT_S,
    sleep: Callable[[float], object] = time.sleep,
) -> None:
    """Send a message to the webhook and to the command, each tried again while that may help.

    Raises
    ------
    NotificationError
        If one of them did not take it; the other was still tried. The webhook's address is not in it.
    """
    body = json.dumps(dict(message), allow_nan=False).encode()
    webhook, command = receivers.webhook, receivers.command
    ways: list[Callable[[], None]] = []
    if webhook is not None:
        ways.append(lambda: _post(webhook, body, timeout_s))
    if command is not None:
        ways.append(lambda: _run(command, body + b"\n", timeout_s))
    failures = []
    for way in ways:
        try:
            _tried(way, tries, sleep)
        except NotificationError as error:
            failures.append(error)
    if failures:
        raise failures[0]


class _PassingError(NotificationError):
    """A failure after which another try may succeed."""


def _tried(way: Callable[[], None], tries: int, sleep: Callable[[float], object]) -> None:
    for again in range(tries):
        try:
            way()
        except _PassingError:
            if again + 1 == tries:
                raise
            sleep(PAUSES_S[min(again, len(PAUSES_S) - 1)])
        else:
            return


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirected POST would arrive as a GET without its body, and count as delivered."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: HTTPMessage,
        newurl: str,
    ) -> None:
        return None


_opener = urllib.request.build_opener(_NoRedirect)


def _post(address: str, body: bytes, timeout_s: float) -> None:
    headers = {"Content-Type": "application/json", "User-Agent": "hms-tune"}
    request = urllib.request.Request(address, data=body, headers=headers, method="POST")
    where = urlsplit(address).hostname or "webhook"
    try:
        with _opener.open(request, timeout=timeout_s):
            return
    except urllib.error.HTTPError as error:
        error.close()
        kind = _PassingError if error.code == 429 or error.code >= 500 else NotificationError
        raise kind(f"the webhook answered {error.code}", where=where, hint="Check its address") from None
    except urllib.error.URLError as error:
        raise _PassingError(f"the webhook cannot be reached: {_said(error.reason)}", where=where) from None
    except (OSError, HTTPException) as error:  # the answer broke off, or did not come in time
        raise _PassingError(f"the webhook cannot be reached: {_said(error)}", where=where) from None


def _said(reason: object) -> str:
    """A cause in the system's words, which hold no address."""
    return (
        str(reason.strerror or type(reason).__name__)
        if isinstance(reason, OSError)
        else type(reason).__name__
    )


def _run(command: tuple[str, ...], body: bytes, timeout_s: float) -> None:
    where = f"command {command[0]}"
    try:
        # A session of its own: Ctrl-C in the worker's terminal is not meant for it.
        subprocess.run(
            command,
            input=body,
            timeout=timeout_s,
            check=True,
            capture_output=True,
            start_new_session=True,
            env={name: value for name, value in os.environ.items() if name in _GIVEN},
        )
    except subprocess.TimeoutExpired:
        raise _PassingError(f"did not end within {timeout_s:.0f} s", where=where) from None
    except subprocess.CalledProcessError as error:
        raise _PassingError(f"ended with status {error.returncode}", where=where) from None
    except OSError as error:
        raise NotificationError(f"cannot be run: {error.strerror}", where=where) from None
