"""Networks of traces and users' own, from training to a bundle that predicts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from bundles import onnx_difference

from hms_tune.config.trial import TrialConfig
from hms_tune.data.store.store import Store
from hms_tune.export.bundle import load_bundle
from hms_tune.export.export import Exported, Winner, export_best
from hms_tune.export.predict import predict
from hms_tune.models.trace_backbones import TRACE_BACKBONES
from hms_tune.training.memory.footprint import footprint
from hms_tune.training.workspace import Workspace

pytestmark = pytest.mark.usefixtures("one_thread")

MODELS = [
    *(pytest.param({"backbone": name}, marks=pytest.mark.slow) for name in TRACE_BACKBONES),
    pytest.param({"backbone": "test_resnet", "trace_backbone": "eegnet", "pooling": "gem"}),
]


def make_config(model: dict[str, object]) -> TrialConfig:
    return TrialConfig.model_validate(
        {
            "data": {"folds": 2, "train_folds": 1, "holdout": 0.2},  # a graph takes time by its networks
            "input": {"eeg": "raw", "kaggle": "kaggle", "image": [32, 64]},
            "augmentation": {"left_right_swap": 0.5, "time_mask": 0.2},
            "model": {"pretrained": False} | model,
            "training": {"epochs": 1, "batch_size": 8, "scheduler": "constant", "seed": 3},
        }
    )


def exported(model: dict[str, object], store: Store, out: Path) -> Exported:
    winner = Winner(study="traces", number=1, config=make_config(model), value=None)
    return export_best(winner, store, out, device="cpu")


@pytest.mark.parametrize("model", MODELS, ids=lambda model: "+".join(map(str, model.values())))
def test_traces_are_learnt_from_exported_and_predicted(
    model: dict[str, object], root: Path, store: Store, tmp_path: Path
) -> None:
    done = exported(model, store, tmp_path / "bundle")
    assert np.isfinite(done.scores.kl)
    assert done.onnx is not None
    assert done.onnx.max_abs_difference < 1e-5
    bundle = load_bundle(done.path, device="cpu")
    images = (
        Workspace(store, torch.device("cpu")).trial_data(bundle.config.config).images.clean(torch.arange(5))
    )
    assert onnx_difference(done.path, bundle, images) < 1e-5
    assert len(predict(bundle, root, out=tmp_path / "submission.csv").read_text().splitlines()) == 4


@pytest.mark.parametrize("half", [False, True])
def test_memory_is_counted_for_both_branches(half: bool) -> None:
    one, both = (
        footprint(make_config({"backbone": "test_resnet"} | more), half=half)
        for more in ({}, {"trace_backbone": "resnet1d"})
    )
    assert both.weights > one.weights + 4 * 4_000_000 - 1_000_000
    assert both.step_per_sample > one.step_per_sample


OWN = """
import hms_tune
from torch import nn


@hms_tune.backbone
def build(given):
    return nn.Sequential(nn.Conv2d(given.channels, 8, 5, stride=4), nn.BatchNorm2d(8), nn.ReLU())
"""


@pytest.mark.slow
def test_a_bundle_of_ones_own_backbone_needs_its_package(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_package.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    done = exported({"backbone": "own_package:build"}, store, tmp_path / "bundle")
    ask = f"import hms_tune; print(hms_tune.load_bundle({str(done.path)!r}, device='cpu').config.trial)"

    def asked(**environment: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", ask]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    assert asked(PYTHONPATH=str(tmp_path)).stdout == "1\n"
    gone = asked()
    assert gone.returncode == 1
    assert "backbone own_package:build cannot be imported" in gone.stderr
