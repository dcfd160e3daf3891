"""Which devices a worker uses, and what a slot on the CPU may take."""

from __future__ import annotations

import os
from collections.abc import Sequence

from hms_tune.errors import UsageError
from hms_tune.training.device import resolve_device


def slot_devices(device: str, slots_per_device: int) -> tuple[tuple[str, str], ...]:
    """The slots of a worker.

    Parameters
    ----------
    device : ``auto`` (every visible GPU, else the CPU), or devices separated by commas
    slots_per_device : slots on each

    Returns
    -------
    (name, device) of each slot, for example ``("cuda0", "cuda:0")`` or ``("cpu-1", "cpu")``

    Raises
    ------
    UsageError
        If a device is not on this machine, or named twice.
    """
    if slots_per_device < 1:
        raise UsageError("a device has at least one slot", where="--slots-per-device")
    names = [part.strip() for part in device.split(",") if part.strip()]
    devices = _visible() if names in ([], ["auto"]) else [str(resolve_device(name)) for name in names]
    if len(set(devices)) < len(devices):
        raise UsageError("a device is named twice", where="--device", mend="Use --slots-per-device")
    return tuple(
        (name.replace(":", "") + (f"-{slot}" if slots_per_device > 1 else ""), name)
        for name in devices
        for slot in range(slots_per_device)
    )


def gpu_share(device: str, devices: Sequence[str]) -> float:
    """How much of a GPU each slot on a device has, of a worker with these; none on the CPU."""
    return 1.0 / max(1, devices.count(device)) if device.startswith("cuda") else 0.0


def cpu_threads(slots: int) -> int:
    """Threads for each of so many slots on this machine's CPU, unless ``OMP_NUM_THREADS`` says."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    if asked.isdecimal() and int(asked) > 0:
        return int(asked)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // max(1, slots))


def _visible() -> list[str]:
    import torch

    if not torch.cuda.is_available():
        return ["cpu"]
    return [f"cuda:{index}" for index in range(torch.cuda.device_count())]
