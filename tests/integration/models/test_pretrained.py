"""Pretrained weights: files of every kind, and a stand-in for the model hub on the loopback interface."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import subprocess
import sys
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import timm
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save, save_file
from serving import served

from hms_tune.config.image_layout import ModelInput
from hms_tune.config.trial import ModelConfig
from hms_tune.errors import PretrainedError
from hms_tune.models.network import Network, build_network

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REPOSITORY = "timm/test_resnet.r160_in1k"


def published() -> dict[str, torch.Tensor]:
    """What the hub publishes for test_resnet: three input channels and a classifier of 1,000 classes."""
    torch.manual_seed(7)
    return dict(timm.create_model("test_resnet", num_classes=1000).state_dict())


def build(pretrained: bool | str, channels: int = 3, backbone: str = "test_resnet") -> Network:
    return build_network(ModelConfig(backbone=backbone, pretrained=pretrained), ModelInput(channels))


def assert_backbone_is(network: Network, weights: dict[str, torch.Tensor]) -> None:
    for key, tensor in network.backbone.state_dict().items():
        expected = weights[key]
        if tensor.shape != expected.shape:
            assert key == "conv1.0.weight"
            expected = expected.sum(dim=1, keepdim=True)
        torch.testing.assert_close(tensor, expected)


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


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub that publishes test_resnet, in place of the real one, with an empty cache."""
    server = Hub({"model.safetensors": save(published()), "config.json": json.dumps({}).encode()})
    with served(server) as address:
        point_to(address, tmp_path, monkeypatch)
        yield server


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


@pytest.mark.parametrize("channels", [1, 3])
def test_true_downloads_the_published_weights_once(hub: Hub, channels: int) -> None:
    assert_backbone_is(build(True, channels), published())
    assert f"GET /{REPOSITORY}/resolve/main/model.safetensors" in hub.asked
    asked = len(hub.asked)
    assert_backbone_is(build(True, channels), published())
    assert len(hub.asked) == asked


def test_a_cache_serves_without_the_hub(hub: Hub) -> None:
    build(True)
    hub.status = 503
    assert_backbone_is(build(True), published())


OFFLINE = """
from hms_tune.config.image_layout import ModelInput
from hms_tune.config.trial import ModelConfig
from hms_tune.models.network import build_network
build_network(ModelConfig(backbone="test_resnet", pretrained=True), ModelInput(3))
"""


def test_the_hubs_own_variables_say_where_its_cache_is_and_that_it_is_not_asked(
    hub: Hub, tmp_path: Path
) -> None:
    build(True)  # as another program would have left it in the cache
    asked = len(hub.asked)
    environment = os.environ | {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    subprocess.run([sys.executable, "-c", OFFLINE], env=environment, check=True, timeout=120)
    assert len(hub.asked) == asked


def test_a_closed_door_is_reported_at_once_with_the_hint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        port = server.server_port
    point_to(f"http://127.0.0.1:{port}", tmp_path, monkeypatch)
    began = time.monotonic()
    with pytest.raises(PretrainedError) as refused:
        build(True)
    assert time.monotonic() - began < 5
    assert "model.pretrained of test_resnet" in str(refused.value)
    assert REPOSITORY in str(refused.value)
    for hint in ("HF_HOME", "set model.pretrained to its path", "set model.pretrained to false"):
        assert hint in str(refused.value)
    assert "\n" not in str(refused.value)
    assert refused.value.exit_code == 1


@pytest.mark.parametrize("status", [401, 403, 429, 500, 503])
def test_a_hub_that_refuses_is_reported_at_once(hub: Hub, status: int) -> None:
    hub.status = status
    began = time.monotonic()
    with pytest.raises(PretrainedError, match="the model hub could not be reached for timm/test_resnet"):
        build(True)
    assert time.monotonic() - began < 5


def test_a_hub_without_safetensors_is_not_asked_for_a_pickle(hub: Hub) -> None:
    hub.files = {"pytorch_model.bin": b"anything"}
    with pytest.raises(PretrainedError, match=r"has no model\.safetensors"):
        build(True)
    assert not any("pytorch_model" in asked for asked in hub.asked)


def test_offline_mode_is_reported(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(PretrainedError, match="could not be reached"):
        build(True)
    assert hub.asked == []


def test_a_damaged_download_is_reported(hub: Hub) -> None:
    hub.files["model.safetensors"] = b"not at all what it should be"
    with pytest.raises(PretrainedError, match="do not fit"):
        build(True)


def test_a_backbone_without_published_weights_is_named(hub: Hub) -> None:
    with pytest.raises(PretrainedError, match="no pretrained weights of gcvit_xxtiny are published"):
        build(True, backbone="gcvit_xxtiny")
    assert hub.asked == []


@pytest.mark.parametrize("channels", [1, 3])
def test_a_path_loads_timms_file_without_its_classifier(tmp_path: Path, channels: int) -> None:
    save_file(published(), tmp_path / "weights.safetensors")
    assert_backbone_is(build(str(tmp_path / "weights.safetensors"), channels), published())


def test_a_path_loads_the_backbone_of_a_trained_network(tmp_path: Path) -> None:
    trained = build(False, channels=1)
    save_file(trained.state_dict(), tmp_path / "fold_0.safetensors")
    loaded = build(str(tmp_path / "fold_0.safetensors"), channels=1)
    assert_backbone_is(loaded, load_file(tmp_path / "fold_0.safetensors") | trained.backbone.state_dict())


def test_weights_of_another_backbone_are_refused_with_the_first_keys(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_file(published(), path)
    with pytest.raises(
        PretrainedError, match=r"the weights do not fit the backbone: \d+ missing \("
    ) as refused:
        build(str(path), backbone="test_efficientnet")
    assert str(path) in str(refused.value)
    changed = published()
    changed["layer1.0.conv1.weight"] = torch.zeros(2, 2, 3, 3)
    save_file(changed, path)
    with pytest.raises(PretrainedError, match=r"1 of another shape \(layer1.0.conv1.weight\)"):
        build(str(path))


class _Trap:
    """Something whose unpickling would be noticed."""

    def __reduce__(self) -> tuple[object, ...]:
        return (open, (_Trap.path, "w"))

    path = ""


@pytest.mark.parametrize(
    "name", ["weights.pt", "weights.pth", "weights.bin", "weights", "weights.safetensors"]
)
def test_no_pickle_is_ever_opened(tmp_path: Path, name: str) -> None:
    _Trap.path = str(tmp_path / "sprung")
    buffer = io.BytesIO()
    pickle.dump(_Trap(), buffer)
    (tmp_path / name).write_bytes(buffer.getvalue())
    with pytest.raises(PretrainedError, match="safetensors"):
        build(str(tmp_path / name))
    assert not (tmp_path / "sprung").exists()


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(PretrainedError, match=r"absent.safetensors: no such file"):
        build(str(tmp_path / "absent.safetensors"))
