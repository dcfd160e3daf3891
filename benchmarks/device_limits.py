"""What a device can do at most: as its maker says where it is known here, as measured where it is not."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Limits:
    """FLOP/s of dense matrix products by precision, bytes/s of memory, and where the figures come from."""

    float32: float
    tf32: float
    bfloat16: float
    memory: float
    source: str

    def compute(self, precision: str) -> float:
        """FLOP/s in a precision."""
        return {"float32": self.float32, "tf32": self.tf32, "bfloat16": self.bfloat16}[precision]

    def __str__(self) -> str:
        """One sentence."""
        return (
            f"{self.float32 / 1e12:.3g} TFLOP/s in float32, {self.tf32 / 1e12:.3g} in TF32, "
            f"{self.bfloat16 / 1e12:.3g} in bfloat16, {self.memory / 1e9:.3g} GB/s ({self.source})"
        )


def _made_by(float32: float, tf32: float, bfloat16: float, memory: float, source: str) -> Limits:
    return Limits(float32 * 1e12, tf32 * 1e12, bfloat16 * 1e12, memory * 1e9, source)


KNOWN: dict[str, Limits] = {
    "H200": _made_by(67, 494.5, 989.5, 4800, "NVIDIA H200 datasheet, without sparsity"),
    "H100 80GB HBM3": _made_by(67, 494.5, 989.5, 3350, "NVIDIA H100 datasheet, SXM, without sparsity"),
    "A100-SXM4-80GB": _made_by(19.5, 156, 312, 2039, "NVIDIA A100 80GB datasheet, SXM, without sparsity"),
    "A100-SXM4-40GB": _made_by(19.5, 156, 312, 1555, "NVIDIA A100 datasheet, SXM, without sparsity"),
    "L4": _made_by(30.3, 60, 121, 300, "NVIDIA L4 datasheet, without sparsity"),
}
"""By what torch calls the device, without "NVIDIA"."""


def limits_of(device: torch.device) -> Limits:
    """The limits of a device; measuring them takes some seconds."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device).removeprefix("NVIDIA ")
        if name in KNOWN:
            return KNOWN[name]
    return measured_limits(device)


def measured_limits(device: torch.device) -> Limits:
    """Rates of large matrix products, and of a large copy, which reads and writes."""
    cuda = device.type == "cuda"
    size = 8192 if cuda else 1536
    rates = {}
    for precision, dtype in (
        ("float32", torch.float32),
        ("tf32", torch.float32),
        ("bfloat16", torch.bfloat16),
    ):
        if cuda:
            torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
        left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
        seconds = _fastest(lambda: left @ right, device)  # noqa: B023 (called at once)
        rates[precision] = 2 * size**3 / seconds
    source = torch.empty(2**31 if cuda else 2**28, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    copied = 2 * source.numel() / _fastest(lambda: target.copy_(source), device)
    return Limits(
        rates["float32"], rates["tf32"], rates["bfloat16"], copied, "measured: matrix products, a copy"
    )


def synchronize(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _fastest(work: Callable[[], object], device: torch.device, *, seconds: float = 1.0) -> float:
    """Seconds of one call, the best of those that fit the time."""
    for _ in range(3):
        work()
    synchronize(device)
    best, end = math.inf, time.perf_counter() + seconds
    while time.perf_counter() < end:
        began = time.perf_counter()
        work()
        synchronize(device)
        best = min(best, time.perf_counter() - began)
    return best
