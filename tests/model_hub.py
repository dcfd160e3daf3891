"""A stand-in for the model hub, on the loopback interface: it publishes test_resnet."""

from __future__ import annotations

import hashlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import timm
import torch
from huggingface_hub import constants

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REPOSITORY = "timm/test_resnet.r160_in1k"


def published() -> dict[str, torch.Tensor]:
    """What the hub publishes for test_resnet: three input channels and a classifier of 1,000 classes."""
    torch.manual_seed(7)
    return dict(timm.create_model("test_resnet", num_classes=1000).state_dict())


class Hub(ThreadingHTTPServer):
    """Answers HEAD and GET of ``/{repository}/resolve/{revision}/{file}`` with the hub's headers."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files
        self.asked: list[str] = []
        self.status = 200
        super().__init__(("127.0.0.1", 0), _Answer)


class _Answer(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        self.server.asked.append(f"{self.command} {self.path}")
        prefix = f"/{REPOSITORY}/resolve/main/"
        content = (
            self.server.files.get(self.path.removeprefix(prefix)) if self.path.startswith(prefix) else None
        )
        status = self.server.status if content is not None or self.server.status != 200 else 404
        content = content if status == 200 and content is not None else b""
        self.send_response(status)
        self.send_header("X-Repo-Commit", COMMIT)
        if status == 404:
            self.send_header("X-Error-Code", "EntryNotFound")
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Stay silent."""


def point_to(url: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make huggingface_hub, which reads its settings at import, use this endpoint and cache."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
