"""What a worker takes of its machine, with all its processes: processor, memory, GPUs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

import psutil

from hms_tune.machine.cores import available_cores
from hms_tune.machine.gpu import GpuUsage, Nvml


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
    """Looks at a process and all its descendants; each look covers the time since the one before.

    Parameters
    ----------
    devices : the devices its slots use, as torch calls them
    pid : the process; this one by default
    """

    def __init__(self, devices: Sequence[str], *, pid: int | None = None) -> None:
        self._devices = tuple(dict.fromkeys(device for device in devices if device.startswith("cuda")))
        self._process = psutil.Process(pid)
        self._nvml = Nvml() if self._devices else None
        self._before: tuple[float, dict[int, float]] | None = None

    def look(self) -> Usage:
        """What the worker takes now."""
        seconds, memory = self._processes()
        return Usage(
            cores=available_cores(),
            busy_cores=self._busy_cores(seconds),
            memory=memory or None,
            memory_total=int(psutil.virtual_memory().total),
            gpus=self._gpus(),
        )

    def _processes(self) -> tuple[dict[int, float], int]:
        """Processor time of each process, s, and resident memory of all, bytes."""
        seconds, memory = {}, 0
        with suppress(psutil.Error):
            for process in (self._process, *self._process.children(recursive=True)):
                with suppress(psutil.Error), process.oneshot():  # it may have just ended
                    times = process.cpu_times()
                    seconds[process.pid] = times.user + times.system
                    memory += process.memory_info().rss
        return seconds, memory

    def _busy_cores(self, seconds: dict[int, float]) -> float | None:
        """Processes that came since the last look count from their start; those that went are forgotten."""
        now, before, self._before = time.monotonic(), self._before, (time.monotonic(), seconds)
        if before is None or now <= before[0] or not seconds:
            return None
        taken = sum(spent - before[1].get(pid, 0.0) for pid, spent in seconds.items())
        return round(taken / (now - before[0]), 2)

    def _gpus(self) -> dict[str, GpuUsage]:
        if self._nvml is None:
            return {}
        found = {device: self._nvml.usage(device) for device in self._devices}
        return {device: usage for device, usage in found.items() if usage is not None}
