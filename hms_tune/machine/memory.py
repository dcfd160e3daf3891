"""How much memory a device has left, as its operating system or driver tells it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

ASSUMED = 2 * 1024**3
"""Bytes of free memory where the operating system does not say."""

_MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True)
class DeviceMemory:
    """Bytes of a device: those that nobody holds, and all there are."""

    free: int
    total: int


MemoryReader = Callable[[torch.device], DeviceMemory]
"""Asks a device for its memory; tests put a small one here."""


def read_memory(device: torch.device) -> DeviceMemory:
    """Ask now. On the CPU, a container's limit counts where it is the narrower one."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return DeviceMemory(int(free), int(total))
    told = _of_the_machine()
    limit = _of_the_container(_CGROUP)
    if limit is None:
        return told
    return DeviceMemory(min(told.free, limit.free), min(told.total, limit.total))


def _of_the_machine() -> DeviceMemory:
    try:
        lines = _MEMINFO.read_text().splitlines()
    except OSError:
        return DeviceMemory(ASSUMED, ASSUMED)
    told = {name: int(rest.split()[0]) * 1024 for name, _, rest in (line.partition(":") for line in lines)}
    return DeviceMemory(told.get("MemAvailable", ASSUMED), told.get("MemTotal", ASSUMED))


def _of_the_container(folder: Path) -> DeviceMemory | None:
    """The limit of control groups, version 2. The page cache in it is given back on demand."""
    try:
        limit = (folder / "memory.max").read_text().strip()
        used = int((folder / "memory.current").read_text())
        statistics = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return None
    if limit == "max":
        return None
    held = used - int(statistics.get("inactive_file", 0)) - int(statistics.get("active_file", 0))
    return DeviceMemory(max(0, int(limit) - held), int(limit))
