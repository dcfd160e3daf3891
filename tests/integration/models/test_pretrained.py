"""Pretrained weights: files of every kind, and a stand-in for the model hub on the loopback interface."""

from __future__ import annotations

import io
import json
import math
import os
import pickle
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from model_hub import REPOSITORY, Hub, point_to, published
from safetensors.torch import load_file, save, save_file
from serving import served

from hms_tune.cli.doctor import examine
from hms_tune.cli.study_check import check
from hms_tune.config.image_layout import ModelInput
from hms_tune.config.settings import Settings
from hms_tune.config.study_file import StudyFile
from hms_tune.config.trial import ModelConfig
from hms_tune.errors import PretrainedError
from hms_tune.models.network import Network, build_network
from hms_tune.models.pretrained import place_of_weights
from hms_tune.search.study_check import find_weights, require_weights


def build(pretrained: bool | str, channels: int = 3, backbone: str = "test_resnet") -> Network:
    return build_network(ModelConfig(backbone=backbone, pretrained=pretrained), ModelInput(channels))


def assert_backbone_is(network: Network, weights: dict[str, torch.Tensor]) -> None:
    for key, tensor in network.backbone.state_dict().items():
        expected = weights[key]
        if tensor.shape != expected.shape:
            assert key == "conv1.0.weight"
            expected = expected.sum(dim=1, keepdim=True)
        torch.testing.assert_close(tensor, expected)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub that publishes test_resnet, in place of the real one, with an empty cache."""
    server = Hub({"model.safetensors": save(published()), "config.json": json.dumps({}).encode()})
    with served(server) as address:
        point_to(address, tmp_path, monkeypatch)
        yield server


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
from hms_tune.cli.doctor import examine
from hms_tune.cli.study_check import check
from hms_tune.config.settings import Settings
from hms_tune.config.study_file import StudyFile
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


def test_a_path_may_begin_at_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    save_file(published(), tmp_path / "weights.safetensors")
    assert_backbone_is(build("~/weights.safetensors"), published())


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


@pytest.mark.parametrize("prefix", ["module.", "state_dict.", "_orig_mod.module."])
def test_weights_of_a_wrapper_are_refused_with_the_prefix_of_their_names(tmp_path: Path, prefix: str) -> None:
    path = tmp_path / "weights.safetensors"
    save_file({f"{prefix}{key}": tensor for key, tensor in published().items()}, path)
    with pytest.raises(PretrainedError, match="do not fit the backbone") as refused:
        build(str(path))
    assert refused.value.hint == f'Its names begin with "{prefix}": save it anew with names without that.'


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda tensor: tensor * math.nan, r"1 with NaN or infinity \(layer1.0.conv1.weight\)"),
        (lambda tensor: tensor.to(torch.int8), r"1 of whole numbers \(layer1.0.conv1.weight\)"),
    ],
    ids=["of a run that diverged", "quantized"],
)
def test_weights_that_no_network_learns_from_are_refused(
    tmp_path: Path, damage: Callable[[torch.Tensor], torch.Tensor], said: str
) -> None:
    changed = published()
    changed["layer1.0.conv1.weight"] = damage(changed["layer1.0.conv1.weight"])
    save_file(changed, tmp_path / "weights.safetensors")
    with pytest.raises(PretrainedError, match=said):
        build(str(tmp_path / "weights.safetensors"))


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


STUDY = """
study: weights
model: {backbone: {choices: [test_resnet, test_efficientnet]}, pretrained: {choices: [true, false]}}
"""


def test_each_backbone_of_a_space_is_asked_for_and_nothing_is_downloaded(
    hub: Hub, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "weights.yaml").write_text(STUDY)
    study_file = StudyFile.parse(STUDY, "weights.yaml")
    found = find_weights(study_file)
    assert [(each.backbone, each.place) for each in found] == [
        ("test_resnet", "hub"),
        ("test_efficientnet", None),
    ]
    assert all(asked.startswith("HEAD") for asked in hub.asked)
    build(True)
    assert find_weights(study_file)[0].place == "cache"
    check(str(tmp_path / "weights.yaml"))
    shown = capsys.readouterr().out
    assert "note: weights of test_resnet are in the local cache" in shown
    assert "warning: weights of test_efficientnet are out of this machine's reach: the hub's" in shown
    with pytest.raises(PretrainedError, match=r"weights.yaml: model.pretrained of test_efficientnet: the"):
        require_weights(study_file)
    asked = len(hub.asked)
    assert find_weights(StudyFile.parse(STUDY.replace("{choices: [true, false]}", "false"), "test")) == ()
    assert len(hub.asked) == asked


def test_all_backbones_without_weights_are_named_at_once(hub: Hub) -> None:
    hub.status = 503
    with pytest.raises(
        PretrainedError, match=r"be reached for timm/test_resnet.*nor are .* test_efficientnet"
    ):
        require_weights(StudyFile.parse(STUDY, "weights.yaml"))


def test_a_cache_that_takes_nothing_is_found_before_a_download(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "file" / "hub"))
    with pytest.raises(PretrainedError, match="nothing can be written to the cache") as refused:
        place_of_weights("test_resnet")
    assert "HF_HOME" in str(refused.value)
    assert hub.asked == []


def test_doctor_says_whether_the_hub_answers_and_checkpoints_can_be_written(
    hub: Hub, database_url: str, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    hub.status = 503
    settings = Settings(home=tmp_path / "file", artifacts=str(tmp_path / "file" / "artifacts"))
    found = {check.name: check for check in examine(settings, storage=database_url)}
    states = {name: found[name].state for name in ("disk", "artifacts", "model hub")}
    assert states == {"disk": "fail", "artifacts": "fail", "model hub": "warn"}
    assert "HF_HOME" in (found["model hub"].hint or "")
