"""Bundles that were never trained, for tests of what happens to one afterwards."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pandas as pd
import torch
from safetensors.torch import save_file
from torch import Tensor

from hms_tune.config.trial import TrialConfig
from hms_tune.data.schema import CLASSES
from hms_tune.export.bundle import Bundle, seal_bundle
from hms_tune.export.onnx import OnnxUnavailableError
from hms_tune.export.out_of_fold import out_of_fold_table
from hms_tune.models.network import build_network
from hms_tune.training.events import OutOfFold


def write_bundle(
    path: Path,
    *,
    eeg: bool = True,
    kaggle: bool = False,
    networks: int = 2,
    oof: Mapping[str, pd.DataFrame] | None = None,
    trial: int = 5,
) -> Path:
    """Write a bundle of networks with random weights that reads EEG, the 10-minute spectrogram, or both."""
    config = TrialConfig.model_validate(
        {
            "input": {
                "eeg": {"name": "stft", "n_fft": 256} if eeg else None,
                "kaggle": "kaggle" if kaggle else None,
                "image": [32, 64],
            },
            "model": {"backbone": "test_resnet", "pretrained": False},
        }
    )
    path.mkdir(parents=True)
    for number in range(networks):
        torch.manual_seed(100 * (trial - 5) + number)
        network = build_network(config.model, config.input.for_model, n_classes=len(CLASSES))
        save_file(network.state_dict(), path / f"fold_{number}.safetensors")
    for name, table in (oof or {}).items():
        table.to_parquet(path / name, index=False)
    seal_bundle(path, study="tiny", trial=trial, config=config)
    return path


def predictions(seed: int) -> pd.DataFrame:
    """Out-of-fold predictions of a model whose errors are its own, over twenty patients."""

    def shares(logits: np.ndarray) -> np.ndarray:
        return (np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)).astype(np.float32)

    truth = np.random.default_rng(0).normal(0, 1.5, (60, len(CLASSES)))
    noise = np.random.default_rng(seed).normal(0, 1.0, truth.shape)
    rows = np.arange(60)
    return out_of_fold_table(
        OutOfFold(
            row=rows,
            eeg_id=1000 + rows,
            patient_id=rows % 20,
            fold=rows % 5,
            probabilities=shares(truth + noise),
            targets=shares(truth),
            total_votes=np.full(60, 10),
        )
    )


def sealed(config: dict[str, Any]) -> str:
    """The text of a ``config.json`` that somebody changed and sealed anew."""
    content = {key: value for key, value in config.items() if key != "seal"}
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return json.dumps(content | {"seal": digest})


def no_graph(*_: object) -> None:
    """In the place of ``export_onnx``, which takes longer than the rest of an export."""
    raise OnnxUnavailableError("no model.onnx")


def onnx_difference(folder: Path, bundle: Bundle, images: Tensor) -> float:
    """The largest difference between probabilities of a bundle's graph and of its networks."""
    with torch.no_grad():
        expected = torch.stack([network(images).softmax(dim=1) for network in bundle.networks]).mean(dim=0)
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    found = session.run(["probabilities"], {"image": images.numpy()})[0]
    return float(np.abs(found - expected.numpy()).max())
