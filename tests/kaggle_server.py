"""A stand-in for Kaggle and for the storage its archives lie on, as two servers on this machine.

What they answer is what Kaggle's client 2.2 (kagglesdk 0.1.37) expects: its calls are POST requests to
``/api/v1/<service>/<method>`` with a JSON body; errors are JSON with ``code`` and ``message``; the archive is
a redirect to a signed address on another host that serves ranges.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from serving import served

DOWNLOAD = "/api/v1/competitions.CompetitionApiService/DownloadDataFiles"
RENEW = "/api/v1/users.AccountService/GenerateAccessToken"
PIECE = 8_192


@dataclass
class Kaggle:
    """What the servers hold, how they misbehave, and what they were asked."""

    content: bytes
    accepted: set[str] = field(default_factory=lambda: {"Bearer secret"})
    refusals: list[tuple[int, str, dict[str, str]]] = field(default_factory=list)
    storage_refusals: list[int] = field(default_factory=list)
    breaks: list[int] = field(default_factory=list)
    """After how many bytes the next transfers break."""
    ranges: bool = True
    weak: bool = False
    stall_at: int | None = None
    """After how many bytes a transfer waits until the servers close."""
    asked: list[dict[str, Any]] = field(default_factory=list)
    transfers: list[tuple[str | None, int]] = field(default_factory=list)
    """The range that was asked for, and the bytes that were sent."""
    stored_headers: list[dict[str, str]] = field(default_factory=list)
    api: str = ""
    storage: str = ""
    stalled: threading.Event = field(default_factory=threading.Event)
    closing: threading.Event = field(default_factory=threading.Event)

    @property
    def etag(self) -> str:
        tag = f'"{hashlib.md5(self.content).hexdigest()}"'
        return f"W/{tag}" if self.weak else tag


class _Handler(BaseHTTPRequestHandler):
    kaggle: Kaggle

    def log_message(self, *_: object) -> None:
        pass

    def answer(self, status: int, content: Any, headers: dict[str, str] | None = None) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class _Api(_Handler):
    def do_POST(self) -> None:
        kaggle = self.kaggle
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        authorization = self.headers.get("Authorization")
        kaggle.asked.append({"path": self.path, "authorization": authorization, "body": body})
        if self.path == RENEW and body.get("refreshToken") == "renewable":
            self.answer(200, {"token": "secret", "expiresIn": 3600})
        elif kaggle.refusals:
            code, message, headers = kaggle.refusals.pop(0)
            self.answer(code, {"code": code, "message": message}, headers)
        elif authorization not in kaggle.accepted:
            self.answer(401, {"code": 401, "message": "Unauthenticated"})
        elif self.path != DOWNLOAD:
            self.answer(404, {"code": 404, "message": "Not found"})
        else:
            self.send_response(302)
            signature = len(kaggle.asked)
            self.send_header("Location", f"{kaggle.storage}/archive.zip?X-Goog-Signature={signature}")
            self.send_header("Content-Length", "0")
            self.end_headers()


class _Storage(_Handler):
    def do_GET(self) -> None:
        kaggle = self.kaggle
        kaggle.stored_headers.append(dict(self.headers))
        probing = not self.headers.get("Accept-Encoding", "").startswith("identity")
        if kaggle.storage_refusals and not probing:
            self.answer(kaggle.storage_refusals.pop(0), {"error": "expired"})
            return
        start, status = 0, 200
        wanted = self.headers.get("Range")
        if wanted and kaggle.ranges and self.headers.get("If-Range") == kaggle.etag:
            start, status = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1]), 206
        self.send_response(status)
        self.send_header("Content-Type", "application/zip")
        self.send_header("ETag", kaggle.etag)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(kaggle.content) - start))
        if status == 206:
            self.send_header(
                "Content-Range", f"bytes {start}-{len(kaggle.content) - 1}/{len(kaggle.content)}"
            )
        self.end_headers()
        if not probing:  # the client's own request is closed unread
            self.send(start, wanted)

    def send(self, start: int, wanted: str | None) -> None:
        kaggle = self.kaggle
        until = kaggle.breaks.pop(0) if kaggle.breaks else None
        sent = 0
        while start + sent < len(kaggle.content):
            if until is not None and sent >= until:
                self.close_connection = True
                break
            if kaggle.stall_at is not None and sent >= kaggle.stall_at:
                kaggle.stalled.set()
                kaggle.closing.wait(60)
                break
            piece = kaggle.content[start + sent : start + sent + PIECE]
            self.wfile.write(piece)
            sent += len(piece)
        kaggle.transfers.append((wanted, sent))


@contextlib.contextmanager
def serve(kaggle: Kaggle) -> Iterator[Kaggle]:
    """Run both servers on free ports."""
    servers = []
    for handler in (_Api, _Storage):
        bound = type(handler.__name__, (handler,), {"kaggle": kaggle})
        server = ThreadingHTTPServer(("127.0.0.1", 0), bound)
        server.daemon_threads = True
        server.handle_error = lambda *_: None  # clients that leave early are expected
        servers.append(server)
    with served(servers[0]) as kaggle.api, served(servers[1]) as kaggle.storage:
        try:
            yield kaggle
        finally:
            kaggle.closing.set()
