"""How near training steps come to what the device can do, and what each technique adds.

    python benchmarks/throughput.py          # a few cells, for two CPU cores, about four minutes
    python benchmarks/throughput.py --full   # every cell, for a GPU, within ten minutes

A cell is a backbone, an image size and a batch size; in it, full training steps (forward, loss, backward,
AdamW) run on random images that are already on the device, with the techniques of a row of
:data:`LADDER`. Rows are cumulative, so that each shows what its last technique adds.

* FLOPs of the forward pass by torch.utils.flop_counter (two for a multiply-add); the backward pass of a
  trained layer counts as twice its forward pass.
* Bytes are estimated: every module's output is written once and read once in the forward pass and twice
  more in the backward pass, in the precision it has, and AdamW reads and writes 28 bytes a parameter. Fused
  kernels move fewer, unfused element-wise ones more.
* The roofline's time is the larger of FLOPs over the peak of a large matrix product (in bfloat16 where the
  technique uses it) and bytes over the speed of a large copy, both measured here just before.

Each cell runs for a fixed time after its warm-up; cells that the time left no room for are marked, as are
those that do not fit the memory.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from machine import device_name, show, table, write_result
from steps import Cell, Training, Ways, synchronize, tf32, work_of_step

_PLAIN = Ways("float32 throughout")
_TF32 = replace(_PLAIN, name="+ TF32", tf32=True)
_LAST = replace(_TF32, name="+ channels_last, cuDNN search", channels_last=True)
_BF16 = replace(_LAST, name="+ bfloat16 autocast", bfloat16=True)
_FUSED = replace(_BF16, name="+ fused optimizer", fused=True)
_GRAPHS = replace(_FUSED, name="+ CUDA graph", acceleration="graphs")
_COMPILED = replace(_GRAPHS, name="+ torch.compile", acceleration="compiled")
_FROZEN = replace(_GRAPHS, name="CUDA graph, first half of the layers frozen", frozen_share=0.5)
LADDER = (_PLAIN, _TF32, _LAST, _BF16, _FUSED, _GRAPHS, _COMPILED, _FROZEN)

_CPU_LAST = replace(_PLAIN, name="+ channels_last", channels_last=True)
_CPU_FUSED = replace(_CPU_LAST, name="+ fused optimizer", fused=True)
CPU_LADDER = (
    _PLAIN,
    _CPU_LAST,
    _CPU_FUSED,
    replace(_CPU_FUSED, name="+ bfloat16 autocast", bfloat16=True),
    replace(_CPU_FUSED, name="float32, fused, first half of the layers frozen", frozen_share=0.5),
)


BACKBONES = ("resnet18d", "resnet34d", "efficientnet_b0", "efficientnet_b2")
FULL = [
    Cell(backbone, image, batch)
    for image, batches in (((128, 256), (32, 128, 16, 64, 256)), ((512, 512), (32, 16, 64, 128, 256)))
    for batch in batches
    for backbone in BACKBONES
]
CPU = [
    Cell("resnet18d", (64, 128), 16),
    Cell("efficientnet_b0", (64, 128), 16),
    Cell("resnet18d", (128, 256), 16),
    Cell("efficientnet_b0", (128, 256), 16),
]


@dataclass(frozen=True)
class Peaks:
    """What the device reaches, FLOP/s and bytes/s."""

    float32: float
    bfloat16: float
    copy: float


@dataclass(frozen=True)
class Figures:
    """What a cell came to. ``note`` says why there are none."""

    step: float = math.nan
    flops: float = math.nan
    moved: float = math.nan
    roofline: float = math.nan
    note: str = ""


def fastest(work: Callable[[], object], device: torch.device, seconds: float) -> float:
    """Seconds of one call, the best of those that fit the time."""
    for _ in range(3):
        work()
    synchronize(device)
    best, end = math.inf, time.perf_counter() + seconds
    while time.perf_counter() < end:
        began = time.perf_counter()
        work()
        synchronize(device)
        best = min(best, time.perf_counter() - began)
    return best


def measure_peaks(device: torch.device) -> Peaks:
    """Large matrix products (TF32 where there is a GPU), and a large copy, which reads and writes."""
    n = 8192 if device.type == "cuda" else 1536
    speed = {}
    with tf32(True):
        for dtype in (torch.float32, torch.bfloat16):
            left, right = (torch.randn(n, n, device=device, dtype=dtype) for _ in range(2))
            speed[dtype] = 2 * n**3 / fastest(lambda: left @ right, device, 1.0)  # noqa: B023 (called at once)
    source = torch.empty(2**31 if device.type == "cuda" else 2**28, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    copy = 2 * source.numel() / fastest(lambda: target.copy_(source), device, 1.0)
    return Peaks(speed[torch.float32], speed[torch.bfloat16], copy)


def measure(cell: Cell, ways: Ways, device: torch.device, peaks: Peaks, seconds: float) -> Figures:
    """Run one cell."""
    try:
        with tf32(ways.tf32):
            flops, moved = work_of_step(cell, ways)
            training = Training(cell, ways, device)
            for _ in range(3):
                training.step()
            synchronize(device)
            steps, began = 0, time.perf_counter()
            while (spent := time.perf_counter() - began) < seconds or steps < 3:
                for _ in range(5 if device.type == "cuda" else 1):
                    training.step()
                    steps += 1
                synchronize(device)
            spent = time.perf_counter() - began
    except torch.OutOfMemoryError:
        return Figures(note="out of memory")
    except Exception as error:  # noqa: BLE001  (a technique that a backbone cannot do is a result too)
        return Figures(note=f"{type(error).__name__}: {str(error).splitlines()[0][:60]}")
    finally:
        if device.type == "cuda":
            torch.cuda.empty_cache()
    peak = peaks.bfloat16 if ways.bfloat16 else peaks.float32
    return Figures(spent / steps, flops, moved, max(flops / peak, moved / peaks.copy))


def row_of(cell: Cell, ways: Ways, figures: Figures, plain: float) -> list[str]:
    """A line of the table."""
    shape = f"{cell.image[0]}×{cell.image[1]}"
    begin = [cell.backbone, shape, str(cell.batch), ways.name]
    if figures.note:
        return [*begin, *["–"] * 6, figures.note]
    step = figures.step
    return [
        *begin,
        f"{cell.batch / step:,.0f}",
        f"{1 / step:.1f}",
        f"{plain / step:.2f}" if not math.isnan(plain) else "–",
        f"{figures.flops / step / 1e12:.2f}",
        f"{figures.moved / step / 1e9:.0f}",
        f"{100 * figures.roofline / step:.0f} %",
        "",
    ]


HEADER = [
    "backbone", "image", "batch", "techniques", "images/s", "steps/s", "speed-up", "TFLOP/s", "GB/s (est.)",
    "of roofline", "",
]  # fmt: skip


def run(cells: list[Cell], ladder: tuple[Ways, ...], minutes: float, seconds: float) -> list[str]:
    """All cells that fit the time, those to be compiled last; the table's lines."""
    device = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    end = time.monotonic() + 60 * minutes
    peaks = measure_peaks(device)
    done: dict[tuple[Cell, Ways], Figures] = {}
    longest: dict[bool, float] = {}
    todo = [(cell, ways) for cell in cells for ways in ladder]
    for cell, ways in sorted(todo, key=lambda item: item[1].acceleration == "compiled"):
        compiling = ways.acceleration == "compiled"
        began = time.monotonic()
        if began + longest.get(compiling, 0.0) > end:
            done[cell, ways] = Figures(note="skipped: no time left")
            continue
        done[cell, ways] = figures = measure(cell, ways, device, peaks, seconds)
        longest[compiling] = max(longest.get(compiling, 0.0), time.monotonic() - began)
        show(" | ".join(row_of(cell, ways, figures, done[cell, ladder[0]].step)))
    rows = [row_of(cell, ways, done[cell, ways], done[cell, ladder[0]].step) for cell, ways in todo]
    kind = "float32 (TF32)" if device.type == "cuda" else "float32"
    head = (
        f"Measured peaks: {peaks.float32 / 1e12:.2f} TFLOP/s in {kind}, {peaks.bfloat16 / 1e12:.2f} in "
        f"bfloat16; copying {peaks.copy / 1e9:.0f} GB/s."
    )
    return [head, "", *table(HEADER, rows)]


def main() -> None:
    """Run the benchmark and write its result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--full", action="store_true", help="every cell, for a GPU")
    parser.add_argument("--minutes", type=float, help="cells that would begin later are marked as skipped")
    parser.add_argument("--seconds", type=float, help="length of one measurement")
    parser.add_argument("--backbone", action="append", help="only this one; may be repeated")
    arguments = parser.parse_args()
    cells = FULL if arguments.full else CPU
    cells = [cell for cell in cells if not arguments.backbone or cell.backbone in arguments.backbone]
    ladder = tuple(ways for ways in LADDER) if torch.cuda.is_available() else CPU_LADDER
    minutes = arguments.minutes or (8.5 if arguments.full else 3.5)
    seconds = arguments.seconds or (0.5 if arguments.full else 2.5)
    options = ["--full"] * arguments.full + [
        f"--{key} {value}"
        for key, value in vars(arguments).items()
        if key in ("minutes", "seconds") and value
    ]
    lines = [
        "# How near training comes to the device's limits",
        "",
        f"`{' '.join(['python benchmarks/throughput.py', *options])}` on {device_name()}, torch "
        f"{torch.__version__}, {torch.get_num_threads()} threads.",
        "",
        *run(cells, ladder, minutes, seconds),
        "",
        "FLOPs by torch.utils.flop_counter; bytes are an estimate (the benchmark's docstring says how). "
        "Steps run on images that are already on the device. Speed-up is over the first row of the cell.",
    ]
    show("\n".join(["", *lines]))
    show(f"\nwritten to {write_result('throughput', lines).name}")


if __name__ == "__main__":
    main()
