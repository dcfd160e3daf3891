"""How many trials an hour: a notebook's search, a tuned notebook's, and ours, over the same configurations.

    python benchmarks/trials.py            # sizes for two CPU cores, about ten minutes
    python benchmarks/trials.py --full     # sizes for a GPU, within ten minutes

Arms, each in one process that lives through the whole benchmark:

* **A**: ``benchmarks/notebook.py``. Optuna in memory, an item at a time, DataLoader with 4 workers, float16
  autocast with GradScaler on a GPU. Finished float32 images wait in its RAM; making them is not counted.
* **A+**: the same with min(16, 2 × cores) workers that persist, pinned memory, channels_last, cuDNN search.
* **ours**: ``hms_tune.worker.slot.Slot`` on an embedded PostgreSQL: claim, ask, train through
  ``CrossValidation`` with checkpoints at the distance of a worker, tell. Making images from EEG is counted.
* **ours, seed 1**: ours with other random numbers, which says what a difference between arms means.

All train the same networks on the same windows, folds and epochs without pruning. The configurations are
drawn once and cut into rounds; in each round every arm runs the round's configurations, the arms in rotating
order. Speeds are medians over the rounds. The start of the processes and of the database is not counted.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from machine import GPUWatch, cores, device_name, median, show, table, write_result
from scipy import stats
from trial_arms import Round, serve
from trial_task import Size, draw

ARMS = ("A", "A+", "ours", "ours, seed 1")


CPU = Size(("resnet10t",), (32, 64), 60, 3, 2, 3, 12, 6, 12.0)
FULL = Size(("resnet34d", "efficientnet_b0"), (128, 256), 400, 5, 2, 3, 64, 8, 7.0)


class Arm:
    """An arm's process, seen from outside."""

    def __init__(self, name: str, size: Size, root: Path, home: Path) -> None:
        self.name = name
        self.rounds: list[Round] = []
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        # Read when torch is loaded: the commands set it, a notebook does not.
        saved = os.environ.get("GOMP_SPINCOUNT")
        if name.startswith("ours"):
            os.environ.setdefault("GOMP_SPINCOUNT", "2000")
        self.process = context.Process(target=serve, args=(name, size, root, home, theirs))
        self.process.start()
        theirs.close()
        if saved is None:
            os.environ.pop("GOMP_SPINCOUNT", None)
        self._pipe.recv()

    def run(self, chosen: list[dict[str, Any]], watch: GPUWatch) -> None:
        """Run a round."""
        watch.take()
        self._pipe.send(chosen)
        done: Round = self._pipe.recv()
        self.rounds.append(replace(done, gpu_busy=watch.take()))

    def close(self) -> None:
        """End the process."""
        self._pipe.send(None)
        self.process.join()


def run(size: Size, root: Path, home: Path) -> tuple[list[Arm], int]:
    """All rounds that fit the time; returns the arms and how many configurations each ran."""
    configurations = draw(size)
    parts = np.array_split(np.arange(len(configurations)), size.rounds)
    watch = GPUWatch()
    arms = [Arm(name, size, root, home / f"arm-{number}") for number, name in enumerate(ARMS)]
    began, done, longest = time.monotonic(), 0, 0.0
    try:
        for number, part in enumerate(parts):
            left = 60 * size.minutes - (time.monotonic() - began)
            if number and left < longest:
                break
            started = time.monotonic()
            for turn in range(len(arms)):
                arm = arms[(turn + number) % len(arms)]
                arm.run([configurations[index] for index in part], watch)
                show(f"round {number + 1}, {arm.name}: {arm.rounds[-1].seconds:.1f} s")
            longest = max(longest, time.monotonic() - started)
            done += len(part)
    finally:
        for arm in arms:
            arm.close()
        watch.close()
    return arms, done


def speed_table(arms: list[Arm], per_round: list[int]) -> list[str]:
    """Trials an hour, images a second, and where the time went."""
    plain = {arm.name: arm for arm in arms}
    hours = {
        name: [3600 * n / each.seconds for n, each in zip(per_round, arm.rounds, strict=True)]
        for name, arm in plain.items()
    }

    def ratio(name: str, over: str) -> str:
        return f"{median([x / y for x, y in zip(hours[name], hours[over], strict=True)]):.2f}"

    def share(arm: Arm, key: str) -> str:
        return f"{100 * median([getattr(each, key) / each.seconds for each in arm.rounds]):.1f} %"

    rows = []
    for arm in arms:
        busy = [each.gpu_busy for each in arm.rounds if each.gpu_busy is not None]
        if busy:
            idle = f"{100 * (1 - median(busy)):.0f} %"
        else:
            used = median([each.cpu / (each.seconds * cores()) for each in arm.rounds])
            idle = f"{100 * max(0.0, 1 - used):.0f} %"
        rows.append(
            [
                arm.name,
                f"{median(hours[arm.name]):.0f}",
                ratio(arm.name, "A"),
                ratio(arm.name, "A+"),
                f"{median([each.images / each.seconds for each in arm.rounds]):.0f}",
                share(arm, "data"),
                share(arm, "storage"),
                share(arm, "compiling"),
                idle,
            ]
        )
    header = ["arm", "trials/h", "over A", "over A+", "images/s", "data", "storage", "compile", "idle"]
    return table(header, rows)


def agreement_table(arms: list[Arm]) -> list[str]:
    """Out-of-fold KL of the arms, and paired differences over configurations."""
    kl = {arm.name: np.array([score for each in arm.rounds for score in each.kl]) for arm in arms}
    if len(kl["ours"]) < 2:
        return ["One configuration ran; that is too few to compare scores."]
    noise = float(np.std(kl["ours, seed 1"] - kl["ours"], ddof=1))
    rows = []
    for arm in arms:
        row = [arm.name, f"{kl[arm.name].mean():.4f}", f"{kl[arm.name].min():.4f}"]
        if arm.name == "ours":
            rows.append([*row, "", "", ""])
            continue
        difference = kl[arm.name] - kl["ours"]
        n, spread = len(difference), float(difference.std(ddof=1))
        half = float(stats.t.ppf(0.975, n - 1)) * spread / np.sqrt(n)
        mean = float(difference.mean())
        within = "yes" if abs(mean) <= half else "no"
        rows.append([*row, f"{mean:+.4f} [{mean - half:+.4f}, {mean + half:+.4f}]", f"{spread:.4f}", within])
    lines = table(
        ["arm", "mean KL", "best KL", "minus ours, 95 % interval", "spread of it", "interval holds 0"], rows
    )
    said = (
        "One arm's KL less ours, paired by configuration (Student's t). Repeating ours with another seed "
        f"spreads by {noise:.4f} a configuration: that is what chance alone does."
    )
    return [said, "", *lines]


def report(size: Size, arms: list[Arm], done: int, command: str, windows: int) -> list[str]:
    """The result as Markdown."""
    parts = [len(part) for part in np.array_split(np.arange(size.configurations), size.rounds)]
    per_round = parts[: len(arms[0].rounds)]
    shown = {key: value for key, value in asdict(size).items() if key not in ("minutes", "configurations")}
    import torch

    return [
        "# Trials an hour",
        "",
        f"`{command}` on {device_name()}, torch {torch.__version__}, "
        f"OMP_NUM_THREADS {os.environ.get('OMP_NUM_THREADS', 'unset')}.",
        "",
        f"{done} of {size.configurations} drawn configurations in {len(per_round)} rounds over {windows} "
        f"windows of a synthetic competition; {', '.join(f'{key} {value}' for key, value in shown.items())}. "
        "Medians over rounds; ratios are of the same round.",
        "",
        *speed_table(arms, per_round),
        "",
        "* data: seconds in which the loop waits for its next batch (A, A+); seconds inside the calls that "
        "make and gather images (ours; on a GPU only the host's part of them, the device works on meanwhile)",
        "* storage: outside the objective or the training generator: Optuna in memory (A, A+); claim, ask, "
        "reports, leases and tell on PostgreSQL, and checkpoints at the distance of a worker (ours)",
        "* compile: what torch.compile reports for itself; capturing CUDA graphs is not in it",
        "* idle: on a GPU the share of time without any kernel, sampled from nvidia-smi, a lower bound; on a "
        "CPU the share of all cores' time that the arm's processes left unused (workers that persist count "
        "when they end)",
        "",
        "## Same scores",
        "",
        *agreement_table(arms),
    ]


def main() -> None:
    """Run the benchmark and write its result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--full", action="store_true", help="sizes for a GPU")
    parser.add_argument("--at", type=Path, help="keep the synthetic competition here, for the next run")
    parser.add_argument("--patients", type=int)
    parser.add_argument("--configurations", type=int)
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--minutes", type=float, help="no round begins that would end later than this")
    arguments = parser.parse_args()
    asked = {key: value for key, value in vars(arguments).items() if key not in ("full", "at") and value}
    size = replace(FULL if arguments.full else CPU, **asked)
    options = ["--full"] * arguments.full + [f"--{key} {value}" for key, value in asked.items()]

    from hms_tune.data.store.prepare import prepare
    from hms_tune.data.synthetic import Extent, synthesize

    with tempfile.TemporaryDirectory(prefix="hms-tune-trials-") as folder:
        root = arguments.at or Path(folder) / "competition"
        if not (root / "train.csv").exists():
            show(f"writing a synthetic competition of {size.patients} patients")
            synthesize(root, patients=size.patients, extent=Extent(test_patients=1, max_seconds=60))
        windows = prepare(root).train["eeg_id"].nunique()
        arms, done = run(size, root, Path(folder))
        lines = report(size, arms, done, " ".join(["python benchmarks/trials.py", *options]), windows)
    show("\n".join(["", *lines]))
    show(f"\nwritten to {write_result('trials', lines).name}")


if __name__ == "__main__":
    main()
