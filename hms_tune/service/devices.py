"""Which devices a worker uses, and what a slot on the CPU may take."""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path

from hms_tune.errors import UsageError
from hms_tune.training.device import resolve_device

_SYSTEM = Path("/sys")
MOST_SLOTS = 16
"""No device gets more slots than this by itself."""


def device_names(device: str) -> tuple[str, ...]:
    """The devices that ``auto`` (every visible GPU, else the CPU) or a list separated by commas names.

    Raises
    ------
    UsageError
        If a device is not on this machine, or named twice.
    """
    names = [part.strip() for part in device.split(",") if part.strip()]
    devices = _visible() if names in ([], ["auto"]) else [str(resolve_device(name)) for name in names]
    if len(set(devices)) < len(devices):
        raise UsageError("a device is named twice", where="--device", mend="Use --slots-per-device")
    return tuple(devices)


def slot_devices(device: str, slots_per_device: int | Mapping[str, int]) -> tuple[tuple[str, str], ...]:
    """The slots of a worker.

    Parameters
    ----------
    device : as for :func:`device_names`
    slots_per_device : slots on each, or on each by its name

    Returns
    -------
    (name, device) of each slot, for example ``("cuda0", "cuda:0")`` or ``("cpu-1", "cpu")``

    Raises
    ------
    UsageError
        If a device is not on this machine, or named twice.
    """
    devices = device_names(device)
    counts = (
        dict.fromkeys(devices, slots_per_device) if isinstance(slots_per_device, int) else slots_per_device
    )
    if any(counts[name] < 1 for name in devices):
        raise UsageError("a device has at least one slot", where="--slots-per-device")
    return tuple(
        (name.replace(":", "") + (f"-{slot}" if counts[name] > 1 else ""), name)
        for name in devices
        for slot in range(counts[name])
    )


def most_slots() -> int:
    """The most slots worth trying on a device: each needs a core of the processor."""
    return min(MOST_SLOTS, usable_cores())


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


def _visible() -> list[str]:
    import torch

    if not torch.cuda.is_available():
        return ["cpu"]
    return [f"cuda:{index}" for index in range(torch.cuda.device_count())]
