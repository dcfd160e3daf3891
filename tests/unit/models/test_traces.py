"""Networks that read traces, alone or beside a backbone of images; and users' own."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType
from unittest.mock import call

import pytest
import torch
from pydantic import ValidationError
from torch import nn
from torch.nn import functional

import hms_tune
from hms_tune.config.image_layout import ModelInput
from hms_tune.config.input import InputConfig, Kaggle, Raw
from hms_tune.config.trial import ModelConfig, TrialConfig
from hms_tune.errors import ModelError
from hms_tune.models.layers import layer_groups
from hms_tune.models.network import build_network
from hms_tune.models.trace_backbones import TRACE_BACKBONES
from hms_tune.models.traces import OtherViews, TraceReader
from hms_tune.signals.image import BipolarWindow, ImageTransform

BESIDE = InputConfig(eeg=Raw(montage="pairs"), kaggle=Kaggle(), image=(128, 64))
"""Eighteen traces in the left half, whose heights differ, and the 10-minute file in the right one."""


@pytest.mark.parametrize(
    "config",
    [
        InputConfig(eeg=Raw(), image=(160, 96)),
        InputConfig(eeg=Raw(montage="pairs"), image=(128, 96)),
        InputConfig(eeg=Raw(lines=3), image=(160, 96)),
        InputConfig(detail=Raw(window_seconds=10.0), image=(160, 96), channels=3),
    ],
)
def test_what_is_read_from_an_image_is_the_trace(config: InputConfig) -> None:
    eeg = 50.0 * torch.randn(2, 20, 10_000, generator=torch.Generator().manual_seed(0))
    place = config.for_model.traces
    assert place is not None
    read = TraceReader(place)(ImageTransform(config)(eeg, None))
    pairs = BipolarWindow(config)(eeg)[:, : place.traces]
    n_times = round(place.seconds * 200)
    start = (pairs.shape[-1] - n_times) // 2
    expected = functional.interpolate(
        pairs[..., start : start + n_times].unsqueeze(-2),
        size=(1, place.n_times),
        mode="bilinear",
        align_corners=False,
        antialias=True,
    ).squeeze(-2)
    torch.testing.assert_close(read, expected / 32.0)
    assert place.sfreq == pytest.approx(place.n_times / place.seconds)


def test_the_other_views_are_what_is_left_of_the_image() -> None:
    place = BESIDE.for_model.traces
    assert place is not None
    images = torch.randn(2, 1, 128, 64)
    assert torch.equal(OtherViews(BESIDE.for_model)(images), images[..., 32:])


@pytest.mark.parametrize("backbone", TRACE_BACKBONES)
def test_a_network_of_traces_looks_at_nothing_else(backbone: str) -> None:
    torch.manual_seed(0)
    network = build_network(ModelConfig(backbone=backbone), BESIDE.for_model).eval()
    images = torch.randn(2, 1, 128, 64)
    changed = images.clone()
    changed[..., 32:] += 1.0
    with torch.inference_mode():
        assert torch.equal(network(images), network(changed))
        changed[..., :32] += 1.0
        assert not torch.equal(network(images), network(changed))


@pytest.mark.parametrize("second", TRACE_BACKBONES)
@pytest.mark.parametrize("pooling", ["avg", "gem"])
def test_two_branches_share_a_head_and_both_learn(second: str, pooling: str) -> None:
    config = ModelConfig(
        backbone="test_resnet", pretrained=False, trace_backbone=second, pooling=pooling, hidden=16
    )
    network = build_network(config, BESIDE.for_model)
    network(torch.randn(4, 1, 128, 64)).square().sum().backward()
    for branch in (network.backbone, network.second):
        assert branch is not None
        first = next(branch.parameters())
        assert first.grad is not None
        assert first.grad.abs().sum() > 0


def test_the_second_branch_has_the_learning_rate_of_the_head() -> None:
    config = ModelConfig(backbone="test_resnet", pretrained=False, trace_backbone="eegnet")
    network = build_network(config, BESIDE.for_model)
    assert network.second is not None
    groups = network.parameter_groups(learning_rate=1.0, weight_decay=0.0, backbone_lr_ratio=0.1)
    rate_of = {id(each): group["lr"] for group in groups for each in group["params"]}
    assert {rate_of[id(each)] for each in network.second.parameters()} == {1.0}
    assert {rate_of[id(each)] for each in network.backbone.parameters()} == {0.1}


@pytest.mark.parametrize("backbone", TRACE_BACKBONES)
def test_layers_of_traces_can_be_frozen(backbone: str) -> None:
    depth = len(layer_groups(backbone))
    config = ModelConfig(backbone=backbone, frozen_layers=depth - 1)
    network = build_network(config, BESIDE.for_model)
    trained = {name for name, each in network.backbone.named_parameters() if each.requires_grad}
    assert trained == set(layer_groups(backbone)[-1].parameter_names)


def test_a_trial_whose_network_reads_traces_needs_a_raw_view() -> None:
    with pytest.raises(ValidationError, match="eegnet reads traces, and no view is raw"):
        TrialConfig(model=ModelConfig(backbone="eegnet"))
    with pytest.raises(ValidationError, match="resnet1d reads the only view; give efficientnet_b0 another"):
        TrialConfig(model=ModelConfig(trace_backbone="resnet1d"), input=InputConfig(eeg=Raw()))


OWN = """
import torch
from torch import nn

import hms_tune


class Spectral(nn.Module):
    def __init__(self, given):
        super().__init__()
        self.traces = hms_tune.TraceReader(given.traces)
        self.mix = nn.Conv1d(given.traces.traces, 8, 1)
        self.out = nn.Linear(8, 12)

    def forward(self, images):
        return self.out(self.mix(self.traces(images)).std(dim=-1))


@hms_tune.backbone
def build(given):
    return Spectral(given)


def unmarked(given):
    return Spectral(given)


@hms_tune.backbone
def broken(given):
    raise KeyError("no such thing")
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The module of a user's own backbones."""
    name = f"own_{tmp_path.name}".replace("-", "_")
    (tmp_path / f"{name}.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    return name


def test_a_users_own_function_builds_a_backbone(own: str) -> None:
    config = ModelConfig(backbone=f"{own}:build", frozen_layers=1)
    network = build_network(config, BESIDE.for_model)
    assert network(torch.randn(3, 1, 128, 64)).shape == (3, 6)
    assert isinstance(network.head[-1], nn.Linear)
    assert network.head[-1].in_features == 12
    assert [group.name for group in layer_groups(f"{own}:build")] == ["mix", "out"]
    assert not any(each.requires_grad for each in network.backbone.mix.parameters())


def test_the_documents_example_is_a_backbone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    document = Path(__file__).parents[3] / "docs" / "models.md"
    (example,) = re.findall(r"```python\n(.*?)```", document.read_text(encoding="utf-8"), re.DOTALL)
    (tmp_path / "example_of_document.py").write_text(example)
    monkeypatch.syspath_prepend(tmp_path)
    config = ModelConfig(backbone="example_of_document:two_bands")
    network = build_network(config, BESIDE.for_model)
    assert network(torch.randn(3, 1, 128, 64)).shape == (3, 6)


def test_a_function_that_is_not_there_not_marked_or_fails_is_named(own: str) -> None:
    def build(name: str) -> None:
        build_network(ModelConfig(backbone=name), ModelInput())

    with pytest.raises(
        ModelError, match=r"cannot be imported \(No module named 'nowhere'\).*Install its package"
    ):
        build("nowhere.models:build")
    with pytest.raises(ModelError, match=f"{own}:nothing is not marked as a backbone"):
        build(f"{own}:nothing")
    with pytest.raises(ModelError, match=f"{own}:unmarked is not marked as a backbone"):
        build(f"{own}:unmarked")
    with pytest.raises(ModelError, match=r"cannot be built \(KeyError: 'no such thing'\)"):
        build(f"{own}:broken")


@pytest.mark.parametrize("name", ["installed:main", "installed.inner:main", "installed.__main__:main"])
def test_a_module_that_marks_no_such_function_is_not_even_imported(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever sends a study file or enqueues a value could have programs run that are installed here."""
    (tmp_path / "installed").mkdir()
    for each in ("__init__", "inner", "__main__"):
        text = f"open({str(tmp_path / 'ran')!r}, 'w')\ndef main(given): ...\n"
        (tmp_path / "installed" / f"{each}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModelError, match=f"{name} is not marked as a backbone"):
        build_network(ModelConfig(backbone=name), ModelInput())
    assert not (tmp_path / "ran").exists()
    assert "installed" not in sys.modules


def test_a_name_that_no_module_can_have_is_refused() -> None:
    with pytest.raises(ModelError, match=r"no backbone '.inner:main'"):
        build_network(ModelConfig(backbone=".inner:main"), ModelInput())


def test_an_object_that_has_every_attribute_is_not_marked(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("with_calls")
    module.call = call  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "with_calls", module)
    with pytest.raises(ModelError, match="with_calls:call is not marked as a backbone"):
        build_network(ModelConfig(backbone="with_calls:call"), ModelInput())


def test_nothing_of_python_itself_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "antigravity", raising=False)
    with pytest.raises(ModelError, match="antigravity is a part of Python"):
        build_network(ModelConfig(backbone="antigravity:fly"), ModelInput())
    assert "antigravity" not in sys.modules


def test_the_public_names_are_found() -> None:
    assert all(getattr(hms_tune, name) is not None for name in hms_tune.__all__)
