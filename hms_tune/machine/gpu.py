"""How busy NVIDIA GPUs are, asked of the driver's own library (NVML).

The library comes with the driver. Asking it opens no CUDA context, which would cost each GPU hundreds of MB;
a worker's supervisor, which computes nothing, can do it. Names and structures are those of NVIDIA's NVML API
reference (``nvmlDeviceGetUtilizationRates``, ``nvmlDeviceGetMemoryInfo``).
"""

from __future__ import annotations

import ctypes
import os
from dataclasses import dataclass
from typing import Any


class _Utilization(ctypes.Structure):
    _fields_ = (("gpu", ctypes.c_uint), ("memory", ctypes.c_uint))


class _Memory(ctypes.Structure):
    _fields_ = (("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong))


@dataclass(frozen=True, slots=True)
class GpuUsage:
    """A GPU at one moment: share of time in which a kernel ran (0 to 1), and its memory, bytes."""

    busy: float
    memory: int
    memory_total: int


class Nvml:
    """The driver's library, opened once; without it, or without a GPU, every answer is None."""

    def __init__(self) -> None:
        self._library: Any = None
        try:
            library = ctypes.CDLL("libnvidia-ml.so.1")
        except OSError:
            return
        if library.nvmlInit_v2() == 0:
            self._library = library

    def usage(self, device: str) -> GpuUsage | None:
        """How a device that torch calls ``cuda:N`` stands.

        ``CUDA_VISIBLE_DEVICES`` says which GPU that is; a slice of one (MIG) is not told apart.
        """
        handle = ctypes.c_void_p()
        if self._library is None or not self._find(device, handle):
            return None
        utilization, memory = _Utilization(), _Memory()
        if self._library.nvmlDeviceGetUtilizationRates(handle, ctypes.byref(utilization)) != 0:
            return None
        if self._library.nvmlDeviceGetMemoryInfo(handle, ctypes.byref(memory)) != 0:
            return None
        return GpuUsage(utilization.gpu / 100.0, int(memory.used), int(memory.total))

    def _find(self, device: str, handle: ctypes.c_void_p) -> bool:
        wanted = physical_gpu(device, os.environ.get("CUDA_VISIBLE_DEVICES"))
        if wanted is None:
            return False
        if isinstance(wanted, int):
            code = self._library.nvmlDeviceGetHandleByIndex_v2(ctypes.c_uint(wanted), ctypes.byref(handle))
        else:
            code = self._library.nvmlDeviceGetHandleByUUID(wanted.encode(), ctypes.byref(handle))
        return bool(code == 0)


def physical_gpu(device: str, visible: str | None) -> int | str | None:
    """Number or identifier of the GPU behind ``cuda:N``; None if there is none.

    Parameters
    ----------
    visible : content of ``CUDA_VISIBLE_DEVICES``: numbers or identifiers, separated by commas
    """
    kind, _, number = device.partition(":")
    if kind != "cuda":
        return None
    index = int(number or 0)
    if visible is None:
        return index
    entries = [entry.strip() for entry in visible.split(",") if entry.strip()]
    if index >= len(entries):
        return None
    return int(entries[index]) if entries[index].isdecimal() else entries[index]
