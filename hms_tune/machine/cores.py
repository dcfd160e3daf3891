"""How many processor cores this process may use."""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

_SYSTEM = Path("/sys")


def cpu_threads(slots: int) -> int:
    """Threads for each of so many slots on this machine's CPU, unless ``OMP_NUM_THREADS`` says."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    if asked.isdecimal() and int(asked) > 0:
        return int(asked)
    return max(1, usable_cores() // max(1, slots))


def usable_cores(system: Path = _SYSTEM) -> int:
    """Cores that arithmetic can fill: whole cores, not their hardware threads, within the container's share.

    Two threads of one core share its arithmetic units, so that PyTorch, too, starts one for each core. A
    container with a share of the processor's time still sees every core; more threads than its share would
    wait for each other.
    """
    logical: Collection[int] = (
        os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    )
    cores = {_siblings(number, system) for number in logical}
    return max(1, math.ceil(min(len(cores), _processor_share(system))))


def _siblings(number: int, system: Path) -> str:
    """The hardware threads of a core, as the kernel lists them; the thread itself where it does not tell."""
    with suppress(OSError):
        return (system / f"devices/system/cpu/cpu{number}/topology/thread_siblings_list").read_text().strip()
    return str(number)


def _processor_share(system: Path) -> float:
    """Processors' worth of time that this container may use (cgroup v2's ``cpu.max``); inf: all of it."""
    with suppress(OSError, ValueError):
        quota, period = (system / "fs/cgroup/cpu.max").read_text().split()
        return float(quota) / float(period) if quota != "max" else math.inf
    with suppress(OSError, ValueError):
        quota = (system / "fs/cgroup/cpu/cpu.cfs_quota_us").read_text()
        period = (system / "fs/cgroup/cpu/cpu.cfs_period_us").read_text()
        return float(quota) / float(period) if float(quota) > 0 else math.inf
    return math.inf


def processor_name() -> str:
    """The processor's name, as Linux tells it, or its kind."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def available_cores() -> int:
    """Cores this process may use, which in a container are fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
