"""What waiting threads cost a training process on a machine that something else uses too.

GNU OpenMP's threads spin for GOMP_SPINCOUNT turns while they wait for each other, and sleep then; its own
default is long. Run on any machine:

    python benchmarks/shared_machine.py

trains timm's test_resnet on random 32×64 images for a few seconds with each count, alone and beside as
many busy processes as there are cores, in alternation, and prints medians of images per second.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time

SPINCOUNTS = {"default": None, "2000, the commands' own": "2000", "0": "0"}


def measure(seconds: float) -> float:
    """Images per second of training steps at batch size 16, on all cores."""
    import timm
    import torch

    network = timm.create_model("test_resnet", pretrained=False, in_chans=1, num_classes=6)
    network = network.to(memory_format=torch.channels_last)
    images = torch.randn(16, 1, 32, 64).contiguous(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters())

    def step() -> None:
        loss = network(images).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    for _ in range(3):
        step()
    start, steps = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        step()
        steps += 1
    return 16 * steps / (time.perf_counter() - start)


def run(spincount: str | None, seconds: float) -> float:
    """Measure in a process of its own: the count is read when torch is loaded."""
    environment = {key: value for key, value in os.environ.items() if key != "GOMP_SPINCOUNT"}
    if spincount is not None:
        environment["GOMP_SPINCOUNT"] = spincount
    command = [sys.executable, __file__, "--measure", "--seconds", str(seconds)]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    return float(done.stdout)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=4.0, help="length of one measurement")
    parser.add_argument("--repeats", type=int, default=3, help="measurements of each kind")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        sys.stdout.write(f"{measure(arguments.seconds)}\n")
        return
    cores = os.cpu_count() or 1
    sys.stdout.write(f"| beside | {' | '.join(SPINCOUNTS)} |\n|---|---|---|---|\n")
    for busy in (0, cores):
        others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(busy)]
        try:
            figures: dict[str, list[float]] = {name: [] for name in SPINCOUNTS}
            for _ in range(arguments.repeats):
                for name, spincount in SPINCOUNTS.items():
                    figures[name].append(run(spincount, arguments.seconds))
        finally:
            for other in others:
                other.kill()
        medians = [statistics.median(each) for each in figures.values()]
        beside = f"{busy} busy processes" if busy else "nothing"
        cells = [f"{median:.0f} ({median / medians[0]:.2f})" for median in medians]
        sys.stdout.write(f"| {beside} | {' | '.join(cells)} |\n")


if __name__ == "__main__":
    main()
