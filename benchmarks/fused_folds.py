"""Whether the folds of a trial should train side by side, as one set of kernels.

    python benchmarks/fused_folds.py          # small networks, for two CPU cores, about four minutes
    python benchmarks/fused_folds.py --full   # for a GPU

The folds of a trial train the same network on different rows from different weights, so they can share their
kernels: K times fewer launches, each K times as large. Ways, in alternation, medians of the repeats:

* **one after another**: a step of each fold in turn (on a GPU also as CUDA graphs);
* **grouped**: one network whose convolutions have K times the groups and channels, whose norms K times the
  channels and whose last layer is K matrices (on a GPU also as a CUDA graph);
* **vmap**: torch.func.vmap over stacked weights;
* **K processes**: each trains one fold, with its share of the cores.

All take AdamW steps in float32 (bfloat16 autocast on a GPU) on random images that are on the device already.
Before anything is timed, three steps from the same weights must give the same losses in every way.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import time
from collections.abc import Callable
from typing import Any

import torch
from fold_ways import WAYS, OneAfterAnother, Task
from machine import cores, device_name, median, show, table, write_result

FOLDS = 5
TOLERANCE = {"float32": 2e-3, "bfloat16": 5e-2}


CPU = [Task(backbone, (32, 64), 16) for backbone in ("test_resnet", "test_efficientnet", "resnet10t")]
FULL = [
    Task(backbone, (128, 256), batch)
    for backbone in ("resnet34d", "efficientnet_b0")
    for batch in (16, 32, 64)
]


def images_per_second(task: Task, n_folds: int, step: Callable[[], object], seconds: float) -> float:
    """Of all folds together."""
    wait = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
    step()
    wait()
    steps, began = 0, time.perf_counter()
    while (spent := time.perf_counter() - began) < seconds:
        step()
        wait()
        steps += 1
    spent = time.perf_counter() - began
    return task.batch * n_folds * steps / spent


def _one_fold(task: Task, fold: int, seconds: float, repeats: int, barrier: Any, answers: Any) -> None:
    torch.set_num_threads(max(1, cores() // FOLDS))
    way = OneAfterAnother(task, range(fold, fold + 1), _device())
    way.step()
    for _ in range(repeats):
        barrier.wait()
        answers.put(images_per_second(task, 1, way.step, seconds))


def in_processes(task: Task, seconds: float, repeats: int) -> list[float]:
    """Images per second of K processes, one for each fold, at each repeat."""
    context = multiprocessing.get_context("spawn")
    barrier, answers = context.Barrier(FOLDS), context.Queue()
    processes = [
        context.Process(target=_one_fold, args=(task, fold, seconds, repeats, barrier, answers), daemon=True)
        for fold in range(FOLDS)
    ]
    for process in processes:
        process.start()
    rates = [answers.get() for _ in range(FOLDS * repeats)]
    for process in processes:
        process.join()
    return [sum(rates[first : first + FOLDS]) for first in range(0, len(rates), FOLDS)]


def _device() -> torch.device:
    return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")


def compare(task: Task, seconds: float, repeats: int) -> list[list[str]]:
    """Lines of the table for a task."""
    device = _device()
    expected = None
    steps: dict[str, Callable[[], object]] = {}
    difference: dict[str, str] = {"K processes": ""}
    rates: dict[str, list[float]] = {}
    for name, way in WAYS.items():
        try:
            made = way(task, range(FOLDS), device)
            losses = torch.stack([made.step() for _ in range(3)])
        except (RuntimeError, NotImplementedError) as error:
            difference[name], rates[name] = f"cannot: {str(error).splitlines()[0][:70]}", []
            continue
        expected = losses if expected is None else expected
        apart = float(((losses - expected).abs() / expected.abs()).max())
        difference[name] = f"{apart:.1e}"
        if apart > TOLERANCE["bfloat16" if device.type == "cuda" else "float32"]:
            difference[name] += " (too much)"
        steps[name] = made.step
        if device.type == "cuda":
            from hms_tune.training.step.acceleration import CapturedStep

            captured = CapturedStep(lambda _batch, made=made: made.step(), (torch.zeros(1, device=device),))
            steps[f"{name}, CUDA graph"] = lambda captured=captured: captured((None,))
    for _ in range(repeats):
        for name, step in steps.items():
            rates.setdefault(name, []).append(images_per_second(task, FOLDS, step, seconds))
    del steps
    rates["K processes"] = in_processes(task, seconds, repeats)
    plain = median(rates["one after another"])
    shape = f"{task.backbone}, {task.image[0]}×{task.image[1]}, batch {task.batch}"
    rows = []
    for name, measured in rates.items():
        speed = median(measured)
        told = ["–", "–"] if math.isnan(speed) else [f"{speed:,.0f}", f"{speed / plain:.2f}"]
        rows.append([shape, name, *told, difference.get(name, difference.get(name.split(",")[0], ""))])
        show(" | ".join(rows[-1]))
    return rows


def main() -> None:
    """Run the benchmark and write its result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--full", action="store_true", help="sizes for a GPU")
    parser.add_argument("--seconds", type=float, default=3.0, help="length of one measurement")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    rows = [
        row
        for task in (FULL if arguments.full else CPU)
        for row in compare(task, arguments.seconds, arguments.repeats)
    ]
    faster: dict[str, list[float]] = {}
    for _, way, _, ratio, _ in rows:
        if ratio != "–":
            faster.setdefault(way, []).append(float(ratio))
    options = " --full" * arguments.full + "".join(
        f" --{key} {value:g}"
        for key in ("seconds", "repeats")
        if (value := getattr(arguments, key)) != parser.get_default(key)
    )
    lines = [
        "# The folds of a trial, side by side",
        "",
        f"`python benchmarks/fused_folds.py{options}` on {device_name()}, torch {torch.__version__}, "
        f"{torch.get_num_threads()} threads; {FOLDS} folds, medians of {arguments.repeats} × "
        f"{arguments.seconds:g} s.",
        "",
        *table(
            ["network", "way", "images/s, all folds", "over one after another", "losses apart"],
            rows,
        ),
        "",
        "Over the networks, least and largest speed-up: "
        + "; ".join(f"{way} {min(each):.2f}–{max(each):.2f}" for way, each in faster.items())
        + ".",
    ]
    show("\n".join(["", *lines]))
    show(f"\nwritten to {write_result('fused_folds', lines).name}")


if __name__ == "__main__":
    main()
