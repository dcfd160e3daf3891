"""What the arms of ``trials.py`` have to do: sizes, the study, and the configurations that are drawn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Size:
    """How large the benchmark is. ``patients`` have about five EEGs each."""

    backbones: tuple[str, ...]
    image: tuple[int, int]
    patients: int
    folds: int
    train_folds: int
    epochs: int
    configurations: int
    rounds: int
    minutes: float


def study_text(size: Size, name: str, trials: int, seed: int) -> str:
    """The study file of ours; the notebook draws the same parameters."""
    return f"""
study: {name}
data: {{folds: {size.folds}, train_folds: {size.train_folds}, holdout: 0.0, rows: row}}
input: {{eeg: {{name: stft, n_fft: 512}}, image: [{size.image[0]}, {size.image[1]}]}}
model:
  backbone: {{choices: [{", ".join(size.backbones)}]}}
  pretrained: false
  dropout: {{low: 0.0, high: 0.5}}
training:
  epochs: {size.epochs}
  batch_size: {{choices: [16, 32, 64]}}
  learning_rate: {{low: 3.0e-4, high: 3.0e-3, log: true}}
  weight_decay: {{low: 1.0e-4, high: 5.0e-2, log: true}}
  scheduler: cosine
  seed: {seed}
search: {{sampler: random, pruner: none}}
budget: {{trials: {trials}}}
tracking: {{wandb: {{mode: off}}}}
"""


def draw(size: Size) -> list[dict[str, Any]]:
    """The configurations, by short parameter names."""
    rng = np.random.default_rng(0)
    return [
        {
            "backbone": size.backbones[number % len(size.backbones)],
            "batch_size": int(rng.choice([16, 32, 64])),
            "learning_rate": float(np.exp(rng.uniform(np.log(3e-4), np.log(3e-3)))),
            "weight_decay": float(np.exp(rng.uniform(np.log(1e-4), np.log(5e-2)))),
            "dropout": float(rng.uniform(0.0, 0.5)),
        }
        for number in range(size.configurations)
    ]


def long_names(values: dict[str, Any]) -> dict[str, Any]:
    """Parameter names as a study file has them; a choice of one backbone is a choice all the same."""
    model = ("backbone", "dropout")
    return {f"{'model' if name in model else 'training'}.{name}": value for name, value in values.items()}
