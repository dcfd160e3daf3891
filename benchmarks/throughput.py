"""How fast the product takes training steps.

    python benchmarks/throughput.py          # some cells, for two CPU cores, about six minutes
    python benchmarks/throughput.py --full   # every cell, for a GPU, within ten minutes

That is against plain PyTorch, with each technique on and off, and against what the device can do. A cell is
a backbone, an image size and a batch size; in it, full training steps (forward, loss, backward, AdamW) run
on one batch of random images that is on the device already.

* **plain PyTorch** is a notebook's loop with nothing that holds it up: no loader, no ``.item()``, no
  scheduler, PyTorch's defaults, autocast as the product has it.
* **ours** is ``Learner.learn`` of the product with its defaults. Further rows change one of its own switches
  (``training.precision``, ``--acceleration``, ``model.frozen_layers``), or undo what has none.

Rows of a cell take turns, five times over; the ratio to plain PyTorch is the median of the five, with the
least and the most. On a GPU the first two rows alone take turns, and all other rows come after the first two
of all cells. Cells that the time left no room for are marked, as are those that do not fit the memory.

* FLOPs of the forward pass by torch.utils.flop_counter (two for a multiply-add); the backward pass of a
  trained layer counts as twice its forward pass.
* Bytes are estimated: every module's output is written once and read once in the forward pass and, where it
  is trained, twice more in the backward pass, in the precision it has, and AdamW reads and writes 28 bytes a
  parameter. Fused kernels move fewer, unfused element-wise ones more.
* The roofline's time is the larger of FLOPs over the device's rate in that precision and bytes over that of
  its memory, as its maker states them (benchmarks/device_limits.py); measured where the device is unknown.
"""

from __future__ import annotations

import argparse
import gc
import math
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from device_limits import Limits, limits_of
from machine import device_name, median, show, table, write_result
from steps import Cell, Way, race, training_of, work_of_step

PLAIN = Way("plain PyTorch", bare=True)
OURS = Way("ours")
CPU_WAYS = (
    Way("ours, not channels_last", channels_last=False),
    Way("ours, optimizer not fused", fused=False),
    Way("ours, bfloat16", precision="bfloat16"),
    Way("ours, first half of the layers frozen", frozen=True),
    Way("ours, first half frozen, its features kept", frozen=True, kept=True),
)
GPU_WAYS = (
    Way("plain PyTorch, float32", bare=True, precision="float32"),
    Way("ours, plain steps", acceleration="plain"),
    Way("ours, plain steps, not channels_last", acceleration="plain", channels_last=False),
    Way("ours, plain steps, optimizer not fused", acceleration="plain", fused=False),
    Way("ours, CUDA graph", acceleration="graphs"),
    Way("ours, CUDA graph, float32", acceleration="graphs", precision="float32"),
    Way("ours, CUDA graph, TF32", acceleration="graphs", precision="tf32"),
    Way("ours, CUDA graph, first half of the layers frozen", acceleration="graphs", frozen=True),
    Way(
        "ours, CUDA graph, first half frozen, its features kept",
        acceleration="graphs",
        frozen=True,
        kept=True,
    ),
)
COMPILED = Way("ours, compiled", acceleration="compiled")

BACKBONES = ("resnet18d", "resnet34d", "efficientnet_b0", "efficientnet_b2")
FULL = [
    Cell(backbone, image, batch)
    for image in ((128, 256), (512, 512))
    for batch in (32, 64, 16, 128, 256)
    for backbone in BACKBONES
]
CPU = [
    Cell(backbone, image, batch)
    for image, batch in (((64, 128), 4), ((64, 128), 16), ((128, 256), 4))
    for backbone in BACKBONES
]

TECHNIQUES_AT = (16, 64, 256)
"""Batch sizes at which a GPU's further rows are measured."""

ROUNDS = 5


@dataclass
class Row:
    """A way in a cell: seconds of a step in each round, or why there are none."""

    cell: Cell
    way: Way
    seconds: list[float] = field(default_factory=list)
    note: str = ""

    @property
    def step(self) -> float:
        """Seconds of a step, the median of the rounds."""
        return median(self.seconds)


def races(cells: list[Cell], device: torch.device) -> Iterator[tuple[Cell, tuple[Way, ...]]]:
    """What is run, in order: the ways of a race take turns."""
    if device.type == "cpu":
        for cell in cells:
            yield cell, (PLAIN, OURS, *CPU_WAYS)
        return
    for cell in cells:
        yield cell, (PLAIN, OURS)
    for cell in cells:
        if cell.batch in TECHNIQUES_AT:
            for way in GPU_WAYS:
                yield cell, (way,)
    for cell in cells:
        if cell.batch == 64 and cell.image == (128, 256):
            yield cell, (COMPILED,)


def run_race(cell: Cell, ways: tuple[Way, ...], device: torch.device, seconds: float) -> list[Row]:
    """Let ways take turns; where memory does not hold all of them at once, one after another."""
    try:
        spent = race([training_of(cell, way, device) for way in ways], device, seconds=seconds, rounds=ROUNDS)
        return [Row(cell, way, each) for way, each in zip(ways, spent, strict=True)]
    except torch.OutOfMemoryError:
        note = "out of memory"
    except Exception as error:  # noqa: BLE001  (a technique that a backbone cannot do is a result too)
        note = f"{type(error).__name__}: {str(error).splitlines()[0][:60]}"
    finally:
        release(device)
    if len(ways) == 1:
        return [Row(cell, ways[0], note=note)]
    return [row for way in ways for row in run_race(cell, (way,), device, seconds)]


def release(device: torch.device) -> None:
    """Give memory back: captured steps hold their learner in a circle."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def run(cells: list[Cell], device: torch.device, minutes: float, seconds: float) -> list[Row]:
    """All races that fit the time."""
    end = time.monotonic() + 60 * minutes
    longest: dict[tuple[Way, ...], float] = {}
    rows = []
    for cell, ways in races(cells, device):
        began = time.monotonic()
        if began + longest.get(ways, 0.0) > end:
            rows += [Row(cell, way, note="skipped: no time left") for way in ways]
            continue
        done = run_race(cell, ways, device, seconds)
        longest[ways] = max(longest.get(ways, 0.0), time.monotonic() - began)
        rows += done
        for row in done:
            show(f"{cell}, {row.way.name}: {row.note or f'{cell.batch / row.step:,.1f} images/s'}")
    return rows


def ratios(row: Row, plain: Row) -> list[float]:
    """How much faster a row is than plain PyTorch, round by round; nothing where one of them was not run."""
    return [theirs / mine for theirs, mine in zip(plain.seconds, row.seconds, strict=False)]


def line_of(row: Row, plain: Row, device: torch.device, limits: Limits) -> list[str]:
    """A line of the table."""
    cell, way = row.cell, row.way
    begin = [cell.backbone, f"{cell.image[0]}×{cell.image[1]}", str(cell.batch), way.name]
    if row.note:
        return [*begin, *["–"] * 6, row.note]
    flops, moved = work_of_step(cell, way, device)
    roofline = max(flops / limits.compute(way.rate(device)), moved / limits.memory)
    over = ratios(row, plain)
    return [
        *begin,
        f"{cell.batch / row.step:,.1f}",
        f"{1 / row.step:.2f}",
        f"{median(over):.2f} ({min(over):.2f}–{max(over):.2f})" if over else "–",
        f"{flops / row.step / 1e12:.3g}",
        f"{moved / row.step / 1e9:.3g}",
        f"{100 * roofline / row.step:.0f} %",
        "",
    ]


HEADER = [
    "backbone", "image", "batch", "way", "images/s", "steps/s", "over plain PyTorch", "TFLOP/s",
    "GB/s (est.)", "of roofline", "",
]  # fmt: skip


def verdict(rows: dict[tuple[Cell, Way], Row], cells: list[Cell]) -> str:
    """Where ours, with its defaults, is slower than plain PyTorch."""
    compared = {
        cell: ratios(rows[cell, OURS], rows[cell, PLAIN])
        for cell in cells
        if rows[cell, OURS].seconds and rows[cell, PLAIN].seconds
    }
    slower = [
        f"{cell} ({median(over):.2f}{', in some rounds faster' if max(over) >= 1 else ''})"
        for cell, over in compared.items()
        if median(over) < 1.0
    ]
    least = min((median(over) for over in compared.values()), default=math.nan)
    said = (
        f"**Ours is no slower than plain PyTorch in {len(compared) - len(slower)} of {len(compared)} cells**"
    )
    said += f"; the least ratio is {least:.2f}."
    if slower:
        said += f" Slower: {'; '.join(slower)}."
    if left := len(cells) - len(compared):
        said += f" {left} cells were not compared."
    return said


def report(rows: list[Row], cells: list[Cell], device: torch.device, limits: Limits) -> list[str]:
    """The verdict and the table, cell by cell."""
    by_way = {(row.cell, row.way): row for row in rows}
    lines = [
        line_of(row, by_way[row.cell, PLAIN], device, limits)
        for cell in cells
        for row in rows
        if row.cell == cell
    ]
    return [verdict(by_way, cells), "", f"Limits: {limits}.", "", *table(HEADER, lines)]


def main() -> None:
    """Run the benchmark and write its result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--full", action="store_true", help="every cell, for a GPU")
    parser.add_argument("--minutes", type=float, help="cells that would end later are marked as skipped")
    parser.add_argument("--seconds", type=float, help="length of one measurement")
    parser.add_argument("--backbone", action="append", help="only this one; may be repeated")
    arguments = parser.parse_args()
    cells = FULL if arguments.full else CPU
    cells = [cell for cell in cells if not arguments.backbone or cell.backbone in arguments.backbone]
    device = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    options = ["--full"] * arguments.full + [
        f"--{key} {value}" for key in ("minutes", "seconds") if (value := getattr(arguments, key))
    ]
    options += [f"--backbone {name}" for name in arguments.backbone or ()]
    load = os.getloadavg()[0]
    limits = limits_of(device)
    minutes = arguments.minutes or (8.5 if arguments.full else 7.0)
    rows = run(cells, device, minutes, arguments.seconds or (0.5 if arguments.full else 2.0))
    lines = [
        "# How fast training steps are",
        "",
        f"`{' '.join(['python benchmarks/throughput.py', *options])}` on {device_name()}, torch "
        f"{torch.__version__}, {torch.get_num_threads()} threads; load average {load:.1f} before it began.",
        "",
        *report(rows, cells, device, limits),
        "",
        "One batch that is on the device already. *plain PyTorch*: a notebook's loop without loader, "
        "`.item()` and scheduler. *ours*: the product's `Learner` with its defaults; further rows change one "
        "of its switches, or undo what has none. Over plain PyTorch: the median of five rounds (least–most) "
        "in which the rows took turns. FLOPs by torch.utils.flop_counter; bytes are an estimate (the "
        "benchmark's docstring says how).",
    ]
    show("\n".join(["", *lines]))
    show(f"\nwritten to {write_result('throughput', lines).name}")


if __name__ == "__main__":
    main()
