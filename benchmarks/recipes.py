"""What each recipe costs, and the constants that scale it.

    python benchmarks/recipes.py cost
    python benchmarks/recipes.py constants FOLDER

``cost`` prints CPU milliseconds for each 50 s window (256 × 512 image, batches of 16, one thread, the fastest
of 9 rounds) as Markdown, for every recipe and for every augmentation that touches signals.
``constants`` prints mean and standard deviation of every recipe in its own unit over the parquet files of a
folder of EEGs, such as ``test_eegs`` of a competition; ``hms_tune/signals/scaling.py`` holds them rounded.
"""

from __future__ import annotations

import argparse
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from hms_tune.config.augmentation import AugmentationConfig
from hms_tune.config.input import InputConfig, Raw, Spectral
from hms_tune.signals.augmentation import Augmentation
from hms_tune.signals.image import BipolarWindow, EEGImage, ImageTransform

BATCH = 16
ROUNDS = 9

INPUTS: dict[str, dict[str, object]] = {
    "stft, chains": {"eeg": "stft"},
    "stft, 18 pairs": {"eeg": {"name": "stft", "montage": "pairs"}},
    "stft, n_fft 1024, chains": {"eeg": {"name": "stft", "n_fft": 1024}},
    "mel, chains": {"eeg": "mel"},
    "multitaper (the host's values), chains": {"eeg": "multitaper"},
    "multitaper, step 0.5 s, 18 pairs": {
        "eeg": {"name": "multitaper", "step_seconds": 0.5, "montage": "pairs"}
    },
    "cwt, 40 wavelets, chains": {"eeg": "cwt"},
    "cwt, 40 wavelets, 18 pairs": {"eeg": {"name": "cwt", "montage": "pairs"}},
    "cwt of 10 s, 40 wavelets, chains": {"eeg": {"name": "cwt", "window_seconds": 10}},
    "raw, 16 pairs": {"eeg": "raw"},
    "kaggle": {"eeg": None, "kaggle": "kaggle"},
    "stft beside stft of 10 s": {
        "eeg": "stft",
        "detail": {"name": "stft", "window_seconds": 10, "n_fft": 256},
    },
    "multitaper beside cwt of 10 s beside kaggle": {
        "eeg": "multitaper",
        "detail": {"name": "cwt", "window_seconds": 10},
        "kaggle": "kaggle",
    },
}


AUGMENTATIONS: dict[str, dict[str, float]] = {
    "left–right swap": {"left_right_swap": 1.0},
    "channel drop": {"channel_drop": 1.0},
    "sign flip": {"sign_flip": 1.0},
    "random band-pass": {"band_pass": 1.0},
    "noise": {"noise_uv": 3.0},
}


def show(line: str) -> None:
    """One line, at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def cost() -> None:
    """Print a table of milliseconds per window."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    eeg = torch.randn(BATCH, 20, 10_000, generator=generator) * 30
    spectrogram = torch.randn(BATCH, 400, 300, generator=generator)
    show(f"One thread of {_processor()}, torch {torch.__version__}.\n")
    show("| input | CPU ms per window |\n|---|---|")
    for name, settings in INPUTS.items():
        transform = ImageTransform(InputConfig.model_validate({**settings, "image": [256, 512]}))
        inputs = (
            eeg if transform.needs_eeg else None,
            spectrogram if transform.needs_spectrogram else None,
        )
        show(f"| {name} | {_milliseconds(lambda: transform(*inputs)):.1f} |")  # noqa: B023 (called at once)
    show("\n| augmentation, in every sample | CPU ms per window |\n|---|---|")
    views = InputConfig.model_validate({"eeg": "raw", "kaggle": "kaggle"})
    for name, varied in AUGMENTATIONS.items():
        augmentation = Augmentation(AugmentationConfig.model_validate(varied), views)
        taken = _milliseconds(lambda: augmentation.signals(eeg, spectrogram, generator))  # noqa: B023
        show(f"| {name} | {taken:.1f} |")


def _milliseconds(work: Callable[[], object]) -> float:
    """Of one window: the fastest round, which other work on the machine slowed least."""
    taken = []
    for _ in range(1 + ROUNDS):
        start = time.process_time()
        with torch.no_grad():
            work()
        taken.append(time.process_time() - start)
    return 1000 * min(taken[1:]) / BATCH


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def constants(folder: Path) -> None:
    """Print mean and standard deviation of every recipe over real EEG."""
    files = sorted(folder.glob("*.parquet"))
    if not files:
        sys.exit(f"error: no parquet files in {folder}")
    frames = [pd.read_parquet(file).to_numpy(np.float32)[:10_000] for file in files]
    show(f"{len(files)} recordings\n\n| recipe | montage | mean | standard deviation |\n|---|---|---|---|")
    linear = {"name": "cwt", "spacing": "linear"}
    recipes = [{"name": each.model_fields["name"].default} for each in get_args(Spectral | Raw)]
    for recipe in (*recipes, linear):
        for montage in ("chains", "lateral_pairs", "pairs"):
            if recipe["name"] == "raw" and montage == "chains":
                continue
            settings = {"eeg": {**recipe, "montage": montage}, "image": [256, 512]}
            values = _in_own_unit(InputConfig.model_validate(settings), np.stack(frames))
            show(f"| {', '.join(recipe.values())} | {montage} | {values.mean():.1f} | {values.std():.1f} |")


def _in_own_unit(config: InputConfig, eeg: np.ndarray) -> Tensor:
    """Panels before scaling: dB, or µV of raw traces."""
    assert config.eeg is not None
    view = EEGImage(config.eeg, scaling="global", height=config.image[0], width=config.image[1])
    centred = np.nan_to_num(eeg - np.nanmedian(eeg, axis=1, keepdims=True))
    pairs = BipolarWindow(config)(torch.from_numpy(centred).transpose(1, 2))
    panels: Tensor = view.panels(pairs)
    return panels


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("cost")
    commands.add_parser("constants").add_argument("folder", type=Path)
    arguments = parser.parse_args()
    if arguments.command == "cost":
        cost()
    else:
        constants(arguments.folder)


if __name__ == "__main__":
    main()
