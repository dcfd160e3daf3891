"""How busy NVIDIA GPUs are, as NVIDIA's management library (NVML) says.

NVML comes with the driver. Asking it opens no CUDA context, which would cost each GPU hundreds of MB; a
worker's supervisor, which computes nothing, can do it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class GpuUsage:
    """A GPU at one moment: share of time in which a kernel ran (0 to 1), and its memory, bytes."""

    busy: float
    memory: int
    memory_total: int


class Nvml:
    """NVML, opened once; without a driver, or without a GPU, every answer is None."""

    def __init__(self) -> None:
        import pynvml

        self._nvml = pynvml
        try:
            pynvml.nvmlInit()
        except pynvml.NVMLError:
            self._nvml = None

    def usage(self, device: str) -> GpuUsage | None:
        """How busy a device that torch calls ``cuda:N`` is.

        ``CUDA_VISIBLE_DEVICES`` says which GPU that is; a slice of one (MIG) is not told apart.
        """
        gpu = physical_gpu(device, os.environ.get("CUDA_VISIBLE_DEVICES"))
        if self._nvml is None or gpu is None:
            return None
        by_number = isinstance(gpu, int)
        handle_of = (
            self._nvml.nvmlDeviceGetHandleByIndex if by_number else self._nvml.nvmlDeviceGetHandleByUUID
        )
        try:
            handle = handle_of(gpu)
            utilization = self._nvml.nvmlDeviceGetUtilizationRates(handle)
            memory = self._nvml.nvmlDeviceGetMemoryInfo(handle)
        except self._nvml.NVMLError:
            return None
        return GpuUsage(utilization.gpu / 100.0, int(memory.used), int(memory.total))


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
