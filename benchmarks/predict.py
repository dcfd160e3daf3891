"""``predict`` beside plain ONNX Runtime, on the same windows with the same number of threads, on the CPU.

    python benchmarks/predict.py [--small] [--threads 4] [--windows 64] [--rounds 7]

The networks have random weights: only time is compared. The ONNX graph of a bundle begins at the image, so
*ONNX Runtime* is what a user of it runs: our transform, then the graph in a bare session. The columns:

- *predict*, *ONNX Runtime*: milliseconds for each window, medians of the rounds.
- *predict over ONNX Runtime*: median over rounds of the ratio, with the least and the most; in each round
  both have the same windows, and take turns at being first. Where least and most lie on both sides of 1,
  nothing was shown.
- *image*: of these milliseconds, those that the transform alone takes.
- *networks over graph*: the same ratio of the networks alone, on finished images.
- *difference*: largest difference of a probability between the two.

Prints the table and, unless small, writes ``benchmarks/results/predict.md``.
"""

from __future__ import annotations

import argparse
import platform
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from machine import device_name, median, show, table, write_result
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor

import hms_tune
from hms_tune.config.trial import TrialConfig
from hms_tune.data.schema import CLASSES
from hms_tune.export.bundle import Bundle, seal_bundle
from hms_tune.export.onnx import export_onnx
from hms_tune.export.signals import eeg_windows
from hms_tune.models.network import build_network
from hms_tune.training.step.inference import predict_probabilities

FOLDS = 5
BATCH = 16
MODELS: dict[str, dict[str, Any]] = {
    "resnet18, 128 × 256": {
        "input": {"eeg": "stft", "image": [128, 256]},
        "model": {"backbone": "resnet18", "pretrained": False},
    },
    "efficientnet_b0, 128 × 256": {
        "input": {"eeg": "stft", "image": [128, 256]},
        "model": {"backbone": "efficientnet_b0", "pretrained": False},
    },
    "eegnet, raw": {
        "input": {"eeg": "raw", "image": [128, 256]},
        "model": {"backbone": "eegnet", "pretrained": False},
    },
}
SMALL: dict[str, dict[str, Any]] = {
    "test_resnet, 32 × 64": {
        "input": {"eeg": {"name": "stft", "n_fft": 256}, "image": [32, 64]},
        "model": {"backbone": "test_resnet", "pretrained": False},
    },
}
HEADER = [
    *("model", "predict", "ONNX Runtime", "predict over ONNX Runtime"),
    *("image", "networks over graph", "difference"),
]


@dataclass(frozen=True)
class Ours:
    """A bundle, and its graph in a bare session."""

    bundle: Bundle
    session: onnxruntime.InferenceSession

    @classmethod
    def made(cls, given: dict[str, Any], folder: Path, *, folds: int, threads: int) -> Ours:
        """Write a bundle of networks that were never trained, with its graph, and open both."""
        config = TrialConfig.model_validate(given)
        folder.mkdir()
        for fold in range(folds):
            torch.manual_seed(fold)
            network = build_network(config.model, config.input.for_model, n_classes=len(CLASSES))
            save_file(network.state_dict(), folder / f"fold_{fold}.safetensors")
        seal_bundle(folder, study="benchmark", trial=0, config=config)
        bundle = hms_tune.load_bundle(folder, device="cpu")
        graph = folder.with_suffix(".onnx")
        export_onnx(bundle.networks, config.training.loss, images_of(bundle, windows(2)), graph)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        session = onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
        return cls(bundle, session)

    def predict(self, eeg: NDArray[np.float32]) -> NDArray[np.float32]:
        """As users of the product predict."""
        return self.bundle.predict(eeg, batch_size=BATCH)

    def plain(self, eeg: NDArray[np.float32]) -> NDArray[np.float32]:
        """As users of the graph do."""
        starts = range(0, len(eeg), BATCH)
        return np.concatenate([self.graph(images_of(self.bundle, eeg[at : at + BATCH])) for at in starts])

    def graph(self, images: Tensor) -> NDArray[np.float32]:
        """The graph alone."""
        (found,) = self.session.run(None, {"image": images.numpy()})
        return np.asarray(found)

    def networks(self, images: Tensor) -> NDArray[np.float32]:
        """The networks alone."""
        return predict_probabilities(
            self.bundle.networks,
            lambda rows: images[rows],
            torch.arange(len(images)),
            training=self.bundle.config.config.training,
            device=self.bundle.device,
            batch_size=len(images),
        )


def images_of(bundle: Bundle, eeg: NDArray[np.float32]) -> Tensor:
    """What the graph is given."""
    with torch.inference_mode():
        images: Tensor = bundle.transform(eeg_windows(eeg, bundle.config.config.input), None)
    return images.contiguous()


def windows(number: int) -> NDArray[np.float32]:
    """Windows of 50 s: noise of as many µV as an EEG has."""
    generator = np.random.default_rng(0)
    return generator.normal(0.0, 30.0, (number, 10_000, 20)).astype(np.float32)


def seconds(work: Callable[[], object]) -> float:
    """How long one call takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def in_turns(
    one: Callable[[], object], other: Callable[[], object], rounds: int
) -> list[tuple[float, float]]:
    """Seconds of both in each round; who is first alternates. The first call of each is not counted."""
    one(), other()
    found = []
    for number in range(rounds):
        if number % 2:
            second = seconds(other)
            found.append((seconds(one), second))
        else:
            first = seconds(one)
            found.append((first, seconds(other)))
    return found


def ratio_text(rounds: list[tuple[float, float]]) -> str:
    """``1.02 (0.98–1.10)``: the median of the rounds' ratios, with the least and the most."""
    ratios = [one / other for one, other in rounds]
    return f"{median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})"


def row(name: str, ours: Ours, eeg: NDArray[np.float32], rounds: int) -> list[str]:
    """What the table says of one model."""
    images = images_of(ours.bundle, eeg[:BATCH])
    whole = in_turns(lambda: ours.predict(eeg), lambda: ours.plain(eeg), rounds)
    alone = in_turns(lambda: ours.networks(images), lambda: ours.graph(images), rounds)
    image = [seconds(lambda: images_of(ours.bundle, eeg[:BATCH])) for _ in range(rounds)]
    difference = float(np.abs(ours.predict(eeg) - ours.plain(eeg)).max())
    return [
        name,
        *(f"{1000 * median(list(each)) / len(eeg):.2f}" for each in zip(*whole, strict=True)),
        ratio_text(whole),
        f"{1000 * median(image) / len(images):.2f}",
        ratio_text(alone),
        f"{difference:.0e}",
    ]


def compare(
    models: dict[str, dict[str, Any]], *, threads: int, windows_each: int, rounds: int, folds: int = FOLDS
) -> list[str]:
    """Lines of the table."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        eeg = windows(windows_each)
        with tempfile.TemporaryDirectory(prefix="hms-tune-") as folder:
            rows = []
            for place, (name, given) in enumerate(models.items()):
                ours = Ours.made(given, Path(folder) / f"bundle_{place}", folds=folds, threads=threads)
                rows.append(row(name, ours, eeg, rounds))
    finally:
        torch.set_num_threads(before)
    return table(HEADER, rows)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--small", action="store_true", help="a tiny network, to see that it runs")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--windows", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args()
    models, folds = (SMALL, 2) if given.small else (MODELS, FOLDS)
    found = compare(
        models, threads=given.threads, windows_each=given.windows, rounds=given.rounds, folds=folds
    )
    lines = [
        "# `predict` beside plain ONNX Runtime",
        "",
        f"`python benchmarks/predict.py --threads {given.threads}`",
        "",
        f"Milliseconds for each 50 s window; bundles of {folds} networks, batches of {BATCH}, "
        f"{given.windows} windows, {given.rounds} rounds, threads: {given.threads}. {device_name()}; Python "
        f"{platform.python_version()}, torch {torch.__version__}, ONNX Runtime {onnxruntime.__version__}. "
        "`benchmarks/predict.py --help` says what the columns mean.",
        "",
        *found,
    ]
    for line in lines:
        show(line)
    if not given.small:
        write_result("predict", lines)


if __name__ == "__main__":
    main()
