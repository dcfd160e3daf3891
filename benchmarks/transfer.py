"""Train a small network on synthetic EEG alone and let it read real EEG.

    python benchmarks/transfer.py [--real FOLDER] [--segments 2400] [--epochs 5] [--seeds 3]

FOLDER holds real EEG in the competition's test layout with a ``labels.csv`` (``eeg_id``, ``expert_label``).
It is read once, after training: nothing is chosen by it. Held-out synthetic patients give the KL divergence
of the prior, the network and the oracle. Prints all of it and writes ``benchmarks/results/transfer.md``.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TextIO

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from segments import make_segments
from torch import Tensor, nn
from torch.nn import functional

from hms_tune.data.schema import CLASSES, EEG_COLUMNS
from hms_tune.signals.filters import ZeroPhaseFilter
from hms_tune.signals.montage import ANODES, CATHODES, CHAINS, PAIRS
from hms_tune.training.scores import kl_divergence

RESULTS = Path(__file__).parent / "results" / "transfer.md"
HELD_OUT = 900
PART = 300
STEP = 4  # samples at 200 Hz per sample the network sees
SCALE = 30.0  # µV that become 1 before compression
LEFT, RIGHT = (
    [
        number
        for number, pair in enumerate(PAIRS)
        if pair in {p for name in side for p in pairwise(CHAINS[name])}
    ]
    for side in (("LL", "LP"), ("RL", "RP"))
)


@torch.no_grad()
def prepared(eeg: NDArray[np.float32], batch: int = 64) -> Tensor:
    """Bipolar channels at 50 Hz: from float32 (n, 20, 10000) in µV to float16 (n, 18, 2500) in µV.

    The only use made of :mod:`hms_tune.signals`: its montage and its zero-phase band-pass, 0.5–20 Hz.
    """
    band_pass = ZeroPhaseFilter(eeg.shape[-1], highpass_hz=0.5, lowpass_hz=20.0)
    parts = []
    for start in range(0, len(eeg), batch):
        window = torch.from_numpy(eeg[start : start + batch])
        window = torch.nan_to_num(window - window.nanmean(dim=-1, keepdim=True))
        pairs = band_pass(window[:, list(ANODES)] - window[:, list(CATHODES)])
        parts.append(pairs[..., ::STEP].clamp(-3000, 3000).half())
    return torch.cat(parts)


@dataclass(frozen=True)
class Examples:
    """Synthetic segments as the network sees them, and what is known of each."""

    pairs: Tensor
    truth: NDArray[np.float64]
    mixture: NDArray[np.float64]
    votes: NDArray[np.int64]

    @classmethod
    def make(cls, n: int, first_seed: int) -> Examples:
        """Make them in parts, since the raw EEG of thousands would fill the memory; a seed for each part."""
        parts = []
        for seed in range(first_seed, first_seed + n // PART):
            made = make_segments(PART, seed=seed)
            parts.append((prepared(made.eeg), made.truth, made.mixture, made.votes))
        pairs, truth, mixture, votes = zip(*parts, strict=True)
        return cls(torch.cat(pairs), np.concatenate(truth), np.concatenate(mixture), np.concatenate(votes))


class Block(nn.Module):
    """A residual pair of convolutions over time."""

    def __init__(self, channels: int, kernel: int, dilation: int = 1) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv1d(channels, channels, kernel, padding="same", dilation=dilation, bias=False),
            nn.BatchNorm1d(channels),
            nn.GELU(),
            nn.Conv1d(channels, channels, kernel, padding="same", dilation=dilation, bias=False),
            nn.BatchNorm1d(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        return functional.gelu(x + self.body(x))


def reduced(before: int, after: int, kernel: int, stride: int) -> nn.Sequential:
    """A convolution that halves or quarters the time axis."""
    return nn.Sequential(
        nn.Conv1d(before, after, kernel, stride=stride, padding=kernel // 2, bias=False),
        nn.BatchNorm1d(after),
        nn.GELU(),
    )


class SegmentNetwork(nn.Module):
    """One encoder for every bipolar pair, then what both hemispheres share and how they differ.

    Exchanging the hemispheres changes nothing, as it should not.
    """

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            reduced(1, width // 2, 15, 4), reduced(width // 2, width, 7, 2), reduced(width, width, 5, 2),
            Block(width, 3),
        )  # fmt: skip
        self.mix = reduced(4 * width, 2 * width, 1, 1)
        self.course = nn.Sequential(Block(2 * width, 5), Block(2 * width, 5, 2), Block(2 * width, 5, 4))
        self.head = nn.Sequential(nn.Dropout(0.3), nn.Linear(6 * width, len(CLASSES)))

    def forward(self, pairs: Tensor) -> Tensor:
        """Logits (batch, 6) of bipolar channels (batch, 18, n_times) in µV."""
        n, n_pairs, _ = pairs.shape
        compressed = torch.asinh(pairs / SCALE)
        encoded = self.encoder(compressed.reshape(n * n_pairs, 1, -1))
        encoded = encoded.view(n, n_pairs, *encoded.shape[1:])
        left, right = encoded[:, LEFT].mean(dim=1), encoded[:, RIGHT].mean(dim=1)
        views = (left + right, (left - right).abs(), encoded.amax(dim=1), torch.maximum(left, right))
        course = self.course(self.mix(torch.cat(views, dim=1)))
        middle = course.shape[-1] // 2
        tenth = course.shape[-1] // 10
        pooled = (
            course.mean(dim=-1),
            course.std(dim=-1),
            course[..., middle - tenth : middle + tenth].mean(dim=-1),
        )
        return self.head(torch.cat(pooled, dim=1))


def augmented(pairs: Tensor, rng: torch.Generator) -> Tensor:
    """Another amplitude, polarity, moment, other bad channels and noise; the class stays."""
    n, n_pairs, n_times = pairs.shape
    gain = torch.exp(
        0.3 * torch.randn(n, 1, 1, generator=rng) + 0.15 * torch.randn(n, n_pairs, 1, generator=rng)
    )
    sign = torch.where(torch.rand(n, 1, 1, generator=rng) < 0.5, -1.0, 1.0)
    kept = torch.rand(n, n_pairs, 1, generator=rng) > 0.25 * torch.rand(n, 1, 1, generator=rng)
    noise = torch.randn(n, n_pairs, n_times, generator=rng) * 4 * torch.rand(n, 1, 1, generator=rng) ** 2
    shift = int(torch.randint(-100, 101, (), generator=rng))
    return torch.roll(pairs * gain * sign + noise, shift, dims=-1) * kept


def fit(pairs: Tensor, targets: Tensor, *, seed: int, epochs: int, batch: int = 32) -> SegmentNetwork:
    """Train on synthetic segments: soft labels, AdamW, one cycle of the learning rate."""
    torch.manual_seed(seed)
    rng = torch.Generator().manual_seed(seed)
    network = SegmentNetwork()
    steps = epochs * (len(pairs) // batch)
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    for epoch in range(epochs):
        order = torch.randperm(len(pairs), generator=rng)[: len(pairs) // batch * batch]
        losses = []
        for rows in order.view(-1, batch):
            loss = functional.cross_entropy(network(augmented(pairs[rows].float(), rng)), targets[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        show(f"seed {seed}, epoch {epoch + 1} of {epochs}: loss {np.mean(losses):.3f}", file=sys.stderr)
    return network.eval()


@torch.no_grad()
def probabilities(network: nn.Module, pairs: Tensor) -> NDArray[np.float64]:
    parts = [network(part.float()).softmax(dim=1) for part in pairs.split(64)]
    return torch.cat(parts).double().numpy()


def read_real(folder: Path) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """EEG float32 (n, 20, 10000), µV, and the experts' classes int64 (n,)."""
    labels = pd.read_csv(folder / "labels.csv")
    eeg = [
        pd.read_parquet(folder / "test_eegs" / f"{eeg_id}.parquet")[list(EEG_COLUMNS)].to_numpy(np.float32).T
        for eeg_id in labels["eeg_id"]
    ]
    return np.stack(eeg), np.array([CLASSES.index(label) for label in labels["expert_label"]])


def confusion_text(classes: NDArray[np.int64], predicted: NDArray[np.int64]) -> str:
    """Rows: what experts called it; columns: what the network does."""
    counts = np.zeros((len(CLASSES), len(CLASSES)), dtype=np.int64)
    np.add.at(counts, (classes, predicted), 1)
    lines = ["| | " + " | ".join(CLASSES) + " |", "|---" * (len(CLASSES) + 1) + "|"]
    lines += [
        f"| {name} | " + " | ".join(map(str, row)) + " |" for name, row in zip(CLASSES, counts, strict=True)
    ]
    return "\n".join(lines)


def show(text: str, file: TextIO = sys.stdout) -> None:
    """One text, at once."""
    file.write(text + "\n")
    file.flush()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--real", type=Path, default=Path(__file__).parents[2] / "shared" / "real_eeg")
    parser.add_argument("--segments", type=int, default=2400, help="a multiple of 300 to train on")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=3, help="networks, each trained on its own")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    started = time.perf_counter()
    training, held_out = Examples.make(options.segments, 1000), Examples.make(HELD_OUT, 2000)
    truth = torch.from_numpy(training.truth.astype(np.float32))
    networks = [fit(training.pairs, truth, seed=seed, epochs=options.epochs) for seed in range(options.seeds)]
    seconds = time.perf_counter() - started

    seen = np.stack([probabilities(network, held_out.pairs) for network in networks])
    targets = held_out.votes / held_out.votes.sum(axis=1, keepdims=True)
    prior = kl_divergence(targets, np.tile(training.truth.mean(axis=0), (len(targets), 1)))
    oracle = kl_divergence(targets, held_out.truth)
    models = [kl_divergence(targets, each) for each in seen]
    closed = (prior - np.mean(models)) / (prior - oracle)
    leading = held_out.mixture.argmax(axis=1)

    eeg, classes = read_real(options.real)
    real_pairs = prepared(eeg)
    read = np.stack([probabilities(network, real_pairs) for network in networks])
    right = [int((each.argmax(axis=1) == classes).sum()) for each in read]
    together = read.mean(axis=0).argmax(axis=1)
    command = f"--segments {options.segments} --epochs {options.epochs} --seeds {options.seeds}"
    weights = sum(parameter.numel() for parameter in networks[0].parameters())
    each = ", ".join(f"{model:.3f}" for model in models)
    named = np.mean(seen.mean(axis=0).argmax(axis=1) == leading)
    text = f"""# From synthetic EEG to real EEG

`python benchmarks/transfer.py {command}`: {weights:,} weights, {options.threads} thread(s), {seconds:.0f} s.

## {HELD_OUT} held-out synthetic patients, KL divergence from the votes

| prior | network, mean over seeds | oracle | share of the distance closed |
|---|---|---|---|
| {prior:.3f} | {np.mean(models):.3f} ({each}) | {oracle:.3f} | {closed:.0%} |

The class that leads the mixture is named right in {named:.0%}.

## Real segments ({len(classes)}, chance {len(classes) / len(CLASSES):.0f})

Right by seed: {", ".join(map(str, right))}; mean {np.mean(right):.1f}. All seeds together: \
**{int((together == classes).sum())} of {len(classes)}**. Rows: experts; columns: the networks together.

{confusion_text(classes, together)}
"""
    show(text)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(text)


if __name__ == "__main__":
    main()
