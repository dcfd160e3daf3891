"""Images, traces, both in two branches, and their blend, each trained for the same time on this CPU.

    python benchmarks/models.py FOLDER [--seconds 300] [--seeds 3] [--patients 120]

The competition is synthetic and lies in FOLDER, with the predictions of every run: called again, it goes on
after the last of them. Nothing is chosen by the held-out patients, on whom all are compared. Prints the table
and writes ``benchmarks/results/models.md``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hms_tune.config.trial import TrialConfig
from hms_tune.data.store.prepare import prepare
from hms_tune.data.store.store import Store
from hms_tune.data.synthetic.competition import synthesize
from hms_tune.export.bundle import load_network
from hms_tune.training.checkpoint import fold_weights_path
from hms_tune.training.cross_validation import CrossValidation
from hms_tune.training.events import EpochEnded
from hms_tune.training.scores import kl_divergence
from hms_tune.training.step.inference import predict_probabilities
from hms_tune.training.workspace import Workspace

RESULTS = Path(__file__).parent / "results" / "models.md"
SPECTRA = {"name": "stft", "montage": "pairs"}
ARMS: dict[str, dict[str, Any]] = {
    "images": {
        "input": {"eeg": SPECTRA, "lowpass_hz": 20, "image": [128, 128]},
        "model": {"backbone": "resnet10t", "pretrained": False, "dropout": 0.2},
    },
    "traces": {
        "input": {"eeg": "raw", "lowpass_hz": 20, "image": [128, 256]},
        "model": {"backbone": "resnet1d", "pretrained": False, "dropout": 0.2},
    },
    "two branches": {
        "input": {
            "eeg": {"name": "raw", "share": 2.0},
            "detail": SPECTRA,
            "lowpass_hz": 20,
            "image": [128, 384],
        },
        "model": {
            "backbone": "resnet10t",
            "trace_backbone": "resnet1d",
            "pretrained": False,
            "dropout": 0.2,
        },
    },
}
DATA = {"folds": 4, "train_folds": 1, "holdout": 0.25, "rows": "vote_vector"}
TRAINING = {
    "batch_size": 16,
    "learning_rate": 2e-3,
    "grad_clip": 1.0,
    "scheduler": {"name": "cosine", "warmup": 0.1},
}


@dataclass(frozen=True)
class Run:
    """One network after its time.

    Attributes
    ----------
    probabilities : float32 (n, 6), of the held-out rows
    epochs, seconds : what it had
    """

    probabilities: NDArray[np.float32]
    epochs: int
    seconds: float

    @classmethod
    def read(cls, path: Path) -> Run:
        with np.load(path) as file:
            return cls(file["probabilities"], int(file["epochs"]), float(file["seconds"]))

    def write(self, path: Path) -> None:
        partial = path.with_suffix(".partial.npz")
        np.savez(partial, probabilities=self.probabilities, epochs=self.epochs, seconds=self.seconds)
        partial.replace(path)


def config_of(arm: Mapping[str, Any], *, epochs: int, seed: int = 0) -> TrialConfig:
    training = {**TRAINING, "epochs": epochs, "seed": seed}
    return TrialConfig.model_validate({"data": DATA, "training": training, **arm})


def epochs_in(seconds: float, arm: Mapping[str, Any], workspace: Workspace) -> int:
    """How many epochs fit, by the second one of two: the first makes the images."""
    trial = CrossValidation(config_of(arm, epochs=2), workspace)
    ended = [event for event in trial.run() if isinstance(event, EpochEnded)]
    return max(1, round(seconds / ended[-1].seconds))


def train(config: TrialConfig, workspace: Workspace, folder: Path) -> Run:
    """Train one fold; the epoch that its validation patients like best predicts the held-out ones."""
    folder.mkdir(exist_ok=True)
    trial = CrossValidation(
        config, workspace, directory=folder, keep_weights=True, checkpoint_every_s=float("inf")
    )
    ended = [event for event in trial.run() if isinstance(event, EpochEnded)]
    data = workspace.trial_data(config)
    probabilities = predict_probabilities(
        [load_network(config, fold_weights_path(folder, 0))],
        data.images.clean,
        torch.from_numpy(data.held_out_rows),
        training=config.training,
        device=workspace.device,
    )
    return Run(probabilities, len(ended), sum(event.seconds for event in ended))


def compare(
    store: Store, arms: Mapping[str, Mapping[str, Any]], folder: Path, *, seconds: float, seeds: int
) -> str:
    """Train what is not yet in the folder; returns the table."""
    folder.mkdir(parents=True, exist_ok=True)
    workspace = Workspace(store, torch.device("cpu"))
    runs: dict[str, list[Run]] = {}
    for name, arm in arms.items():
        paths = [folder / f"{name.replace(' ', '-')}-{seconds:g}s-{seed}.npz" for seed in range(seeds)]
        missing = [seed for seed, path in enumerate(paths) if not path.exists()]
        epochs = epochs_in(seconds, arm, workspace) if missing else 0
        for seed in missing:
            sys.stderr.write(f"{name}, seed {seed}: {epochs} epochs\n")
            checkpoints = folder / f"{paths[seed].stem}-{epochs}"
            train(config_of(arm, epochs=epochs, seed=seed), workspace, checkpoints).write(paths[seed])
        runs[name] = [Run.read(path) for path in paths]
    data = workspace.trial_data(config_of(next(iter(arms.values())), epochs=1))
    targets, held_out = data.labels.targets, data.held_out_rows
    others = np.setdiff1d(np.arange(len(targets)), held_out)
    prior = np.tile(targets[others].mean(axis=0), (len(held_out), 1))
    return table(runs, targets[held_out], prior)


def table(runs: Mapping[str, list[Run]], targets: NDArray[np.float32], prior: NDArray[np.float32]) -> str:
    """Rows: networks, their blend, and the mean of all other rows' targets, which knows no EEG.

    Each has the KL divergence of every seed, from the targets float32 (n, 6).
    """
    lines = ["| network | KL, mean | by seed | epochs | seconds a run |", "|---|---|---|---|---|"]
    for name, own in runs.items():
        lines.append(
            f"| {name} | {_scores(targets, [run.probabilities for run in own])} | "
            f"{', '.join(str(run.epochs) for run in own)} | {np.mean([run.seconds for run in own]):.0f} |"
        )
    by_seed = [
        np.mean([run.probabilities for run in each], axis=0) for each in zip(*runs.values(), strict=True)
    ]
    total = sum(float(np.mean([run.seconds for run in own])) for own in runs.values())
    lines.append(f"| their blend | {_scores(targets, by_seed)} | | {total:.0f} |")
    lines.append(f"| class prior | {_scores(targets, [prior])} | | |")
    return "\n".join(lines)


def _scores(targets: NDArray[np.float32], predictions: list[NDArray[Any]]) -> str:
    kl = [float(kl_divergence(targets, each)) for each in predictions]
    return f"{np.mean(kl):.3f} | {', '.join(f'{each:.3f}' for each in kl)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--patients", type=int, default=120)
    given = parser.parse_args()
    root = given.folder / f"competition-{given.patients}"
    if not root.exists():
        given.folder.mkdir(parents=True, exist_ok=True)
        synthesize(root, patients=given.patients)
    store = prepare(root)
    found = compare(store, ARMS, given.folder / "runs", seconds=given.seconds, seeds=given.seeds)
    command = f"python benchmarks/models.py FOLDER --seconds {given.seconds:g} --seeds {given.seeds} "
    text = (
        "# Images, traces, two branches and their blend\n\n"
        f"`{command}--patients {given.patients}`: {torch.get_num_threads()} thread(s), random first "
        "weights, one fold; KL divergence on held-out patients. The blend is the mean of the three, and so "
        f"had three times the time.\n\n{found}\n"
    )
    sys.stdout.write(text)
    RESULTS.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
