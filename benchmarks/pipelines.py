"""Images per second of the product's data path, of a plain DataLoader with workers, and of NVIDIA DALI.

    python benchmarks/pipelines.py               # a synthetic competition, some minutes
    python benchmarks/pipelines.py --data DIR    # a prepared competition folder of yours

The same rows of the same store, in the same shuffled order and in batches of the same size, become the same
images: an STFT of the EEG. Nothing is trained. The arms:

* **ours**: ``Workspace.trial_data``, as in docs/speed.md; images are made in the first epoch and kept.
* **ours, nothing kept**: images are made in each epoch, a batch at once, as where augmentation changes
  signals.
* **DataLoader**: a ``Dataset`` that reads the store and makes the image of one row, in as many worker
  processes as there are cores. The workers stay between epochs. On a GPU: pinned memory, and a copy of each
  batch.
* **DALI**: signals by its external source, all that follows by its operators, in as many threads as there are
  cores; on a GPU, there. Left out where it is not installed. It is no dependency of the product:
  ``pip install --target FOLDER nvidia-dali-cuda130``, then ``PYTHONPATH=FOLDER``.

Arms take turns in rotating order. Each turn starts from nothing, so that the first epoch counts what the arm
needs to start: folds and memory plan, worker processes, DALI's graph. *Over ours* compares images per second
of the same round, with the smallest and the largest ratio. *CPU* is the processor time of a whole turn,
worker processes included, for each image that was made in it. *Largest difference* and *mean difference* are
those of pixels from ours; images lie within ± 3.

DALI has no band-pass, so the recipe leaves the product's out.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from machine import cpu_seconds, device_name, median, show, table, write_result
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from hms_tune.config.trial import TrialConfig
from hms_tune.data.labels import Labels
from hms_tune.data.soft_labels import labelled_rows
from hms_tune.data.store.prepare import prepare
from hms_tune.data.store.store import Store
from hms_tune.data.store.windows import WindowSource
from hms_tune.data.synthetic import Extent, synthesize
from hms_tune.machine.cores import cpu_threads
from hms_tune.machine.device import resolve_device
from hms_tune.signals.image import ImageTransform
from hms_tune.training.images.images import make_images
from hms_tune.training.workspace import Workspace

OURS, ANEW, LOADER, DALI = "ours", "ours, nothing kept", "DataLoader", "DALI"

NO_DALI = (
    "DALI was not measured: it is not installed. It needs a folder of its own: "
    "`pip install --target FOLDER nvidia-dali-cuda130`, then `PYTHONPATH=FOLDER`."
)

Epoch = Callable[[], Iterator[Tensor]]
"""Makes the batches of an epoch: float32 (batch, channels, height, width) on the device."""


@dataclass(frozen=True, slots=True)
class Turn:
    """What one arm did from its start: images per second, and CPU seconds per image made."""

    first: float
    later: float
    cpu: float


class WindowImages(Dataset[Tensor]):
    """The image of one row, made when asked for."""

    def __init__(self, source: WindowSource, transform: ImageTransform) -> None:
        self._source, self._transform = source, transform

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, row: int) -> Tensor:
        return make_images(self._source, self._transform, torch.tensor([row]))[0]


class Pipelines:
    """The rows that all arms read, and a way to start each arm."""

    def __init__(self, store: Store, asked: argparse.Namespace) -> None:
        self.device = resolve_device(asked.device)
        self.threads = cpu_threads(1)
        self.store = store
        self.config = TrialConfig.model_validate(
            {
                "data": {"rows": "eeg", "folds": 2, "holdout": 0.0},
                "input": {"eeg": "stft", "highpass_hz": None, "lowpass_hz": None, "image": asked.image},
                "model": {"backbone": "resnet18d", "pretrained": False},
            }
        )
        self.labels: Labels = labelled_rows(store.train, store.root, self.config.data)
        order = torch.randperm(len(self.labels), generator=torch.Generator().manual_seed(0))
        self.batches = list(order.split(asked.batch))
        self.arms = {OURS: self.ours, ANEW: self.anew, LOADER: self.data_loader}
        if dali_version() is not None:
            self.arms[DALI] = self.dali

    def source(self, device: torch.device) -> WindowSource:
        """The windows of all rows."""
        return WindowSource(self.store, self.labels, device)

    def ours(self) -> Epoch:
        """The path of a trial."""
        images = Workspace(self.store, self.device).trial_data(self.config).images
        return lambda: (images.clean(rows) for rows in self.batches)

    def anew(self) -> Epoch:
        """The same without the cache."""
        source, transform = self.source(self.device), ImageTransform(self.config.input).to(self.device)
        return lambda: (make_images(source, transform, rows) for rows in self.batches)

    def data_loader(self) -> Epoch:
        """Rows, one by one, in worker processes."""
        loader = DataLoader(
            WindowImages(self.source(torch.device("cpu")), ImageTransform(self.config.input)),
            batch_sampler=[rows.tolist() for rows in self.batches],
            num_workers=self.threads,
            persistent_workers=True,
            pin_memory=self.device.type == "cuda",
        )
        return lambda: (images.to(self.device, non_blocking=True) for images in loader)

    def dali(self) -> Epoch:
        """DALI's operators."""
        from pipelines_dali import start_dali

        source = self.source(torch.device("cpu"))
        return start_dali(source, self.config.input, self.batches, self.device, self.threads)

    def turn(self, arm: str, later_epochs: int) -> Turn:
        """Start an arm and take its epochs."""
        cpu, began = cpu_seconds(), time.perf_counter()
        epoch = self.arms[arm]()
        self._take(epoch)
        first = time.perf_counter() - began
        later = [self._take(epoch) for _ in range(later_epochs)]
        del epoch  # ends worker processes, whose time counts then
        n_rows = len(self.labels)
        made = n_rows * (1 if arm == OURS else 1 + later_epochs)
        return Turn(n_rows / first, n_rows / median(later), (cpu_seconds() - cpu) / made)

    def _take(self, epoch: Epoch) -> float:
        began = time.perf_counter()
        n_rows = sum(len(images) for images in epoch())
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        if n_rows != len(self.labels):
            raise RuntimeError(f"an epoch gave {n_rows} of {len(self.labels)} images")
        return time.perf_counter() - began

    def differences(self) -> dict[str, tuple[float, float]]:
        """The largest and the mean difference of each arm's pixels from ours."""
        images = {arm: torch.cat([batch.cpu() for batch in start()()]) for arm, start in self.arms.items()}
        found = {}
        for arm, made in images.items():
            off = (made - images[OURS]).abs()
            found[arm] = (float(off.max()), float(off.mean()))
        return found


def measure(pipelines: Pipelines, rounds: int, later_epochs: int) -> list[dict[str, Turn]]:
    """All rounds, in rotating order."""
    arms = list(pipelines.arms)
    done = []
    for number in range(rounds):
        turn: dict[str, Turn] = {}
        start = number % len(arms)
        for arm in [*arms[start:], *arms[:start]]:
            turn[arm] = pipelines.turn(arm, later_epochs)
            show(f"round {number + 1}, {arm}: {turn[arm].first:.1f}/s, then {turn[arm].later:.1f}/s")
        done.append(turn)
    return done


def report(
    pipelines: Pipelines, rounds: list[dict[str, Turn]], off: dict[str, tuple[float, float]], command: str
) -> list[str]:
    """The result as Markdown."""
    rows = []
    for arm in pipelines.arms:
        cells = [arm]
        for key in ("first", "later"):
            cells.append(f"{median([getattr(turns[arm], key) for turns in rounds]):,.1f}")
            ratios = [getattr(turns[arm], key) / getattr(turns[OURS], key) for turns in rounds]
            cells.append("" if arm == OURS else f"{_short(median(ratios))} [{_span(ratios)}]")
        cells.append(f"{1000 * median([turns[arm].cpu for turns in rounds]):.1f}")
        cells += ["", ""] if arm == OURS else [f"{off[arm][0]:.1g}", f"{off[arm][1]:.1g}"]
        rows.append(cells)
    height, width = pipelines.config.input.image
    dali = f", DALI {dali_version()}" if DALI in pipelines.arms else ""
    header = ["", "first epoch, images/s", "over ours", "later epochs, images/s", "over ours"]
    return [
        "# Ways from signals to images",
        "",
        f"`{command}` on {device_name()}, torch {torch.__version__}{dali}, "
        f"{pipelines.threads} threads or worker processes.",
        "",
        f"{len(pipelines.labels)} windows to {height} × {width} images of an STFT without band-pass, batches "
        f"of {len(pipelines.batches[0])}; median of {len(rounds)} rounds in rotating order. Ratios are of "
        "the same round, with the smallest and the largest. The script's head says what each arm is.",
        "",
        *table([*header, "CPU, ms per image made", "largest difference", "mean difference"], rows),
        *([] if DALI in pipelines.arms else ["", NO_DALI]),
    ]


def _short(ratio: float) -> str:
    return f"{ratio:.2f}" if ratio >= 0.1 else f"{ratio:.2g}"


def _span(ratios: list[float]) -> str:
    return f"{_short(min(ratios))}, {_short(max(ratios))}"


def dali_version() -> str | None:
    """Of the DALI that is installed; None where there is none."""
    try:
        import nvidia.dali
    except ImportError:
        return None
    return str(nvidia.dali.__version__)


def open_data(asked: argparse.Namespace, folder: Path) -> Store:
    """The store of the user's folder, or of a synthetic one."""
    if asked.data is not None:
        return Store.open(asked.data)
    show(f"writing a synthetic competition of {asked.patients} patients")
    extent = Extent(test_patients=1, max_seconds=60)
    synthesize(folder / "competition", patients=asked.patients, extent=extent)
    return prepare(folder / "competition")


def main(arguments: list[str] | None = None) -> list[str]:
    """Measure, print, and write the result unless this is only a quick look; returns the lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=4, help="each of all arms; 1 writes no result")
    parser.add_argument("--later-epochs", type=int, default=1)
    parser.add_argument("--patients", type=int, default=40, help="of the synthetic competition")
    parser.add_argument("--data", type=Path, help="a prepared competition folder instead")
    parser.add_argument("--image", type=int, nargs=2, default=(128, 256), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--device", default="auto")
    asked = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="hms-tune-pipelines-") as folder:
        pipelines = Pipelines(open_data(asked, Path(folder)), asked)
        if pipelines.device.type == "cpu":
            torch.set_num_threads(pipelines.threads)
        off = pipelines.differences()  # warms caches, too
        rounds = measure(pipelines, asked.rounds, asked.later_epochs)
    command = " ".join(["python benchmarks/pipelines.py", *_options(parser, asked)])
    lines = report(pipelines, rounds, off, command)
    show("\n".join(["", *lines]))
    if asked.rounds > 1:
        show(f"\nwritten to {write_result('pipelines', lines).name}")
    return lines


def _options(parser: argparse.ArgumentParser, asked: argparse.Namespace) -> list[str]:
    """Those that were not left as they are, but for a folder of the user's, by its name."""
    given = []
    for key, value in vars(asked).items():
        if value == parser.get_default(key):
            continue
        shown = "DIR" if key == "data" else " ".join(map(str, value)) if key == "image" else value
        given.append(f"--{key.replace('_', '-')} {shown}")
    return given


if __name__ == "__main__":
    if "GOMP_SPINCOUNT" not in os.environ:  # read when torch is loaded; the commands set it
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, "GOMP_SPINCOUNT": "2000"})
    main()
