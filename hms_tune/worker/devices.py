"""Which devices a worker uses, and what a slot on the CPU may take."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from hms_tune.errors import UsageError
from hms_tune.machine.device import resolve_device
from hms_tune.training.distributed.group import RankPlace


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
        raise UsageError("a device is named twice", where="--device", hint="Use --slots-per-device")
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


SlotDevices = tuple[str, tuple[str, ...]]
"""A slot's name and the device of each rank of its trials."""


def slot_groups(
    device: str,
    slots_per_device: int | Mapping[str, int],
    ranks_per_trial: int,
    *,
    place: RankPlace | None = None,
) -> tuple[SlotDevices, ...]:
    """The slots of a worker, where several devices may train one trial together.

    Parameters
    ----------
    device, slots_per_device : as in :func:`slot_devices`
    ranks_per_trial : how many devices train one trial; on the CPU as many processes
    place : the place that torchrun gave this process: one device, then, and the others are elsewhere

    Returns
    -------
    name and devices of each slot, for example ``("cuda0+1", ("cuda:0", "cuda:1"))``

    Raises
    ------
    UsageError
        If the devices cannot be divided into such groups.
    """
    if ranks_per_trial == 1 and place is None:
        return tuple((slot, (name,)) for slot, name in slot_devices(device, slots_per_device))
    if not isinstance(slots_per_device, int):
        raise UsageError("slots of several ranks are as many on each device", where="--slots-per-device")
    if place is not None:
        return (_one_of_many(device, slots_per_device, ranks_per_trial, place),)
    names = [name for _, name in slot_devices(device, 1)]
    if names == ["cpu"]:
        names *= ranks_per_trial
    if ranks_per_trial < 1 or len(names) % ranks_per_trial:
        raise UsageError(
            f"{len(names)} devices cannot be divided into groups of {ranks_per_trial}",
            where="--ranks-per-trial",
            hint="Name devices with --device, or choose a divisor of their number",
        )
    groups = [
        tuple(names[start : start + ranks_per_trial]) for start in range(0, len(names), ranks_per_trial)
    ]
    return tuple(
        (_group_name(group) + (f"-{slot}" if slots_per_device > 1 else ""), group)
        for group in groups
        for slot in range(slots_per_device)
    )


def _group_name(group: tuple[str, ...]) -> str:
    others = (name.partition(":")[2] or str(rank) for rank, name in enumerate(group))
    return group[0].replace(":", "") + "".join(f"+{other}" for other in list(others)[1:])


def _one_of_many(device: str, slots_per_device: int, ranks_per_trial: int, place: RankPlace) -> SlotDevices:
    """The slot of a process that torchrun started: on the GPU of its local rank, or on the CPU."""
    if slots_per_device != 1 or ranks_per_trial not in (1, place.size):
        raise UsageError(
            f"torchrun has started {place.size} ranks for one slot",
            where="--slots-per-device and --ranks-per-trial",
            hint="Leave both options out under torchrun",
        )
    names = [name for _, name in slot_devices(device, 1)]
    local = os.environ.get("LOCAL_RANK", "0")
    if names == ["cpu"]:
        return f"cpu+rank{place.rank}of{place.size}", ("cpu",)
    if not local.isdecimal() or int(local) >= len(names):
        raise UsageError(
            f"there is no device for local rank {local}; this machine has {len(names)}",
            where="LOCAL_RANK",
            hint="Start at most one rank for each device: torchrun --nproc-per-node",
        )
    name = names[int(local)]
    return f"{name.replace(':', '')}+rank{place.rank}of{place.size}", (name,)


def gpu_share(device: str, devices: Sequence[str]) -> float:
    """How much of a GPU each slot on a device has, of a worker with these; none on the CPU."""
    return 1.0 / max(1, devices.count(device)) if device.startswith("cuda") else 0.0


def _visible() -> list[str]:
    import torch

    if not torch.cuda.is_available():
        return ["cpu"]
    return [f"cuda:{index}" for index in range(torch.cuda.device_count())]
