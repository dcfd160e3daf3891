"""A local receiver of webhooks."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from serving import served

SECRET = "T0KEN/canary-of-the-webhook"


@dataclass(slots=True)
class Receiver:
    """Keeps what it is sent. ``answers`` are the statuses of the next requests, 200 after them."""

    address: str = ""
    messages: list[dict[str, Any]] = field(default_factory=list)
    answers: list[int] = field(default_factory=list)

    def events(self) -> list[str]:
        """What was told, in order."""
        return [message["event"] for message in self.messages]


@contextmanager
def receiver() -> Iterator[Receiver]:
    """A receiver on a port of its own; its address holds a secret."""
    kept = Receiver()
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            with lock:
                status = kept.answers.pop(0) if kept.answers else 200
                if status == 200:
                    kept.messages.append(json.loads(body))
            self.send_response(status)
            if status in (301, 302):
                self.send_header("Location", "/elsewhere")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *arguments: object) -> None: ...

    with served(ThreadingHTTPServer(("127.0.0.1", 0), Handler)) as address:
        kept.address = f"{address}/services/{SECRET}"
        yield kept
