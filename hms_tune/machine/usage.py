"""What a worker takes of its machine: processor, memory, GPUs.

Read from ``/proc`` (proc(5)) over the worker's whole tree of processes; where there is none, it is unknown.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hms_tune.machine.gpu import GpuUsage, Nvml

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Usage:
    """A worker at one moment.

    ``busy_cores`` is the processor time its processes took per second since the last look; ``memory`` their
    resident memory and ``memory_total`` the machine's, bytes. ``gpus`` has an entry for each GPU it uses.
    """

    cores: int
    busy_cores: float | None
    memory: int | None
    memory_total: int | None
    gpus: dict[str, GpuUsage]

    def as_json(self) -> dict[str, Any]:
        """For a column of the database."""
        return asdict(self)

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> Usage:
        """What :meth:`as_json` made."""
        gpus = {name: GpuUsage(**gpu) for name, gpu in stored["gpus"].items()}
        return cls(**(stored | {"gpus": gpus}))


class UsageMeter:
    """Looks at a process and all its descendants; each look tells what happened since the one before.

    Parameters
    ----------
    devices : the devices its slots use, as torch calls them
    pid : the process; this one by default
    """

    def __init__(self, devices: Sequence[str], *, pid: int | None = None) -> None:
        self._devices = tuple(dict.fromkeys(device for device in devices if device.startswith("cuda")))
        self._pid = os.getpid() if pid is None else pid
        self._nvml = Nvml() if self._devices else None
        self._before: tuple[float, dict[int, int]] | None = None

    def look(self) -> Usage:
        """How the worker stands now."""
        processes = list(_tree(self._pid))
        return Usage(
            cores=_cores(),
            busy_cores=self._busy_cores({pid: ticks for pid, ticks, _ in processes}),
            memory=sum(pages for _, _, pages in processes) * _PAGE_BYTES if processes else None,
            memory_total=_memory_total(),
            gpus=self._gpus(),
        )

    def _busy_cores(self, ticks: dict[int, int]) -> float | None:
        """Processes that came since the last look count from their start; those that went are forgotten."""
        now, before, self._before = time.monotonic(), self._before, (time.monotonic(), ticks)
        if before is None or now <= before[0] or not ticks:
            return None
        taken = sum(count - before[1].get(pid, 0) for pid, count in ticks.items())
        return round(taken / _TICKS_PER_S / (now - before[0]), 2)

    def _gpus(self) -> dict[str, GpuUsage]:
        if self._nvml is None:
            return {}
        found = {device: self._nvml.usage(device) for device in self._devices}
        return {device: usage for device, usage in found.items() if usage is not None}


def _tree(root: int) -> Iterator[tuple[int, int, int]]:
    """Process id, processor time in ticks, and resident pages of a process and its descendants."""
    found: dict[int, tuple[int, int, int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:  # it has just ended
            continue
        # proc(5): after the name come state, ppid, …; utime and stime are fields 14 and 15, rss is field 24
        found[int(path.parent.name)] = (int(fields[1]), int(fields[11]) + int(fields[12]), int(fields[21]))
    pending = [root] if root in found else []
    while pending:
        pid = pending.pop()
        yield pid, found[pid][1], found[pid][2]
        pending += [child for child, (parent, _, _) in found.items() if parent == pid]


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _memory_total() -> int | None:
    try:
        return os.sysconf("SC_PHYS_PAGES") * _PAGE_BYTES
    except (ValueError, OSError):
        return None
