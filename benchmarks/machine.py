"""What every benchmark of training asks of the machine: what it is, how busy it is, where results go."""

from __future__ import annotations

import os
import platform
import re
import resource
import shutil
import statistics
import subprocess
import sys
import threading
from pathlib import Path

import torch

RESULTS = Path(__file__).with_name("results")


def show(line: str = "") -> None:
    """One line, at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def device_name() -> str:
    """The GPU, or the processor with its cores."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name(0)
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor()}, {cores()} cores"


def cores() -> int:
    """Cores this process may use."""
    from hms_tune.machine.cores import available_cores

    return available_cores()


def write_result(name: str, lines: list[str]) -> Path:
    """Write ``results/<name>.md``, on a GPU ``results/<name>-<device>.md``; returns its path."""
    suffix = ""
    if torch.cuda.is_available():
        suffix = "-" + re.sub(r"[^a-z0-9]+", "-", torch.cuda.get_device_name(0).lower()).strip("-")
    path = RESULTS / f"{name}{suffix}.md"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def table(header: list[str], rows: list[list[str]]) -> list[str]:
    """Lines of a Markdown table."""
    return [f"| {' | '.join(row)} |" for row in [header, ["---"] * len(header), *rows]]


def median(values: list[float]) -> float:
    """The median; NaN of nothing."""
    return statistics.median(values) if values else float("nan")


def cpu_seconds() -> float:
    """Processor time of this process and of the children it has waited for."""
    return sum(
        usage.ru_utime + usage.ru_stime
        for usage in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )


class DatabaseServer:
    """Processor time of the embedded PostgreSQL, its backends included."""

    def __init__(self, folder: Path) -> None:
        self._pid = int((folder / "data" / "postmaster.pid").read_text().splitlines()[0])
        self._tick = float(os.sysconf("SC_CLK_TCK"))

    def cpu_seconds(self) -> float:
        """Of the server, of what it waited for, and of what still runs."""
        total = 0.0
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = stat.read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(stat.parent.name) == self._pid:
                total += sum(map(float, fields[11:15]))  # its own, and of backends that have ended
            elif int(fields[1]) == self._pid:
                total += sum(map(float, fields[11:13]))
        return total / self._tick


class GPUWatch:
    """Samples nvidia-smi's utilisation ten times a second: the share of time in which some kernel ran.

    That is an upper bound of how busy the GPU was: one small kernel counts as much as a full device.
    """

    def __init__(self) -> None:
        self._samples: list[float] = []
        self._process: subprocess.Popen[str] | None = None
        if torch.cuda.is_available() and shutil.which("nvidia-smi"):
            command = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]
            self._process = subprocess.Popen(
                [*command, "-i", "0", "-lms", "100"], stdout=subprocess.PIPE, text=True
            )
            threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.strip().isdecimal():
                self._samples.append(float(line) / 100)

    def take(self) -> float | None:
        """Mean share since the last call; None where there is nothing to ask."""
        samples, self._samples = self._samples, []
        return statistics.fmean(samples) if samples else None

    def close(self) -> None:
        """End the sampling."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
