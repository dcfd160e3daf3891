"""What a worker is seen to take of its machine."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hms_tune.machine.gpu import GpuUsage, Nvml, physical_gpu
from hms_tune.machine.usage import Usage, UsageMeter

BUSY = """
import time
end = time.process_time() + 0.4
while time.process_time() < end:
    pass
print(flush=True)
input()
"""


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="no /proc")
def test_processor_time_and_memory_are_those_of_the_whole_tree_of_processes() -> None:
    meter = UsageMeter(["cpu"])
    before = meter.look()
    assert before.busy_cores is None
    with subprocess.Popen(
        [sys.executable, "-c", BUSY], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        during = meter.look()
        child.communicate(b"\n")
    assert during.busy_cores is not None
    assert 0.0 < during.busy_cores <= during.cores + 0.5
    assert before.memory is not None
    assert during.memory is not None
    assert during.memory > before.memory + 2_000_000
    after = meter.look()
    assert after.busy_cores is not None
    assert after.busy_cores >= 0.0
    assert during.gpus == {}


def test_usage_survives_the_database() -> None:
    usage = Usage(8, 3.5, 1000, 2000, {"cuda:0": GpuUsage(0.5, 1, 2)})
    assert Usage.from_json(usage.as_json()) == usage


@pytest.mark.parametrize(
    ("device", "visible", "expected"),
    [
        ("cuda:1", None, 1),
        ("cuda", None, 0),
        ("cuda:0", "3,1", 3),
        ("cuda:1", "GPU-aa, GPU-bb", "GPU-bb"),
        ("cuda:2", "3,1", None),
        ("cpu", None, None),
    ],
)
def test_the_gpu_behind_a_device_is_the_one_that_is_visible(
    device: str, visible: str | None, expected: int | str | None
) -> None:
    assert physical_gpu(device, visible) == expected


class FakeLibrary:
    """Answers as NVML does, for GPU number 1 alone."""

    def nvmlInit_v2(self) -> int:  # noqa: N802
        return 0

    def nvmlDeviceGetHandleByIndex_v2(self, index: Any, handle: Any) -> int:  # noqa: N802
        return 0 if index.value == 1 else 6

    def nvmlDeviceGetUtilizationRates(self, handle: Any, rates: Any) -> int:  # noqa: N802
        rates._obj.gpu = 87
        return 0

    def nvmlDeviceGetMemoryInfo(self, handle: Any, memory: Any) -> int:  # noqa: N802
        memory._obj.used, memory._obj.total = 5, 80
        return 0


def test_a_gpu_is_read_through_the_drivers_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: FakeLibrary())
    nvml = Nvml()
    assert nvml.usage("cuda:1") == GpuUsage(0.87, 5, 80)
    assert nvml.usage("cuda:0") is None


def test_without_a_driver_nothing_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise OSError(name)

    monkeypatch.setattr(ctypes, "CDLL", absent)
    assert Nvml().usage("cuda:0") is None
