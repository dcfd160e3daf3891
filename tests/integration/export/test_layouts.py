"""Views in a grid and as channels, from training to a bundle that predicts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bundles import no_graph, onnx_difference

from hms_tune.config.trial import TrialConfig
from hms_tune.data.store.store import Store
from hms_tune.export.bundle import load_bundle
from hms_tune.export.export import Winner, export_best
from hms_tune.export.predict import predict
from hms_tune.training.workspace import Workspace

pytestmark = pytest.mark.usefixtures("one_thread")

THREE = {
    "eeg": "mel",
    "detail": {"name": "stft", "window_seconds": 10},
    "more": {"scalogram": {"name": "cwt", "window_seconds": 10}},
}
LAYOUTS = [
    # The graph of a grid is that of any image, as test_bundle.py has it.
    pytest.param({**THREE, "layout": "grid"}, False, id="grid without a graph"),
    pytest.param({**THREE, "layout": "grid"}, True, id="grid", marks=pytest.mark.slow),
    pytest.param({**THREE, "layout": "channels"}, True, id="channels"),
    pytest.param(
        {**THREE, "detail": "raw", "kaggle": "kaggle", "layout": "channels"},
        True,
        id="channels and a second branch",
        marks=pytest.mark.slow,
    ),
]


def make_config(views: dict[str, Any]) -> TrialConfig:
    return TrialConfig.model_validate(
        {
            "data": {"folds": 2, "train_folds": 1, "holdout": 0.2},  # a graph takes time by its networks
            "input": {"image": [64, 96]} | views,
            "augmentation": {"time_mask": 0.2, "frequency_mask": 0.2, "mixup_alpha": 0.4},
            "model": {
                "backbone": "test_resnet",
                "pretrained": False,
                "trace_backbone": "eegnet" if views["detail"] == "raw" else None,
            },
            "training": {"epochs": 1, "batch_size": 8, "scheduler": "constant", "optimizer": "lion"},
        }
    )


@pytest.mark.parametrize(("views", "graph"), LAYOUTS)
def test_views_are_learnt_from_exported_and_predicted(
    views: dict[str, Any],
    graph: bool,
    root: Path,
    store: Store,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if not graph:
        monkeypatch.setattr("hms_tune.export.export.export_onnx", no_graph)
    winner = Winner(study="layouts", number=1, config=make_config(views), value=None)
    done = export_best(winner, store, tmp_path / "bundle", device="cpu")
    assert np.isfinite(done.scores.kl)
    bundle = load_bundle(done.path, device="cpu")
    assert bundle.config.config == winner.config
    data = Workspace(store, torch.device("cpu")).trial_data(winner.config)
    images = data.images.clean(torch.arange(5))
    assert data.images.cached is not None
    assert images.shape == (5, *winner.config.input.for_model.shape)
    assert (done.onnx is not None) == graph
    if done.onnx is not None:
        assert done.onnx.max_abs_difference < 1e-5
        assert onnx_difference(done.path, bundle, images) < 1e-5
    assert len(predict(bundle, root, out=tmp_path / "submission.csv").read_text().splitlines()) == 4
    layout = {"grid": "in a grid", "channels": "in a channel each"}[winner.config.input.layout]
    assert f"10 s of EEG as cwt{', the 10-minute spectrogram' * ('kaggle' in views)} {layout}" in (
        (done.path / "README.md").read_text()
    )
