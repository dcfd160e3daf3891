"""What a worker is seen to take of its machine."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import pynvml
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


@pytest.fixture
def one_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver that knows GPU number 1, which is also GPU-one, alone."""

    def handle(name: int | str) -> str:
        if name not in (1, "GPU-one"):
            raise pynvml.NVMLError_NotFound
        return "handle"

    monkeypatch.setattr(pynvml, "nvmlInit", lambda: None)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetHandleByIndex", handle)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetHandleByUUID", handle)
    rates, memory = SimpleNamespace(gpu=87, memory=9), SimpleNamespace(used=5, free=75, total=80)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetUtilizationRates", {"handle": rates}.__getitem__)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetMemoryInfo", {"handle": memory}.__getitem__)


def test_a_gpu_is_read_through_the_drivers_library(one_gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    nvml = Nvml()
    assert nvml.usage("cuda:1") == GpuUsage(0.87, 5, 80)
    assert nvml.usage("cuda:0") is None
    assert nvml.usage("cpu") is None
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-one")
    assert nvml.usage("cuda:0") == GpuUsage(0.87, 5, 80)
    assert UsageMeter(["cuda:0", "cuda:1", "cuda:0"]).look().gpus == {"cuda:0": GpuUsage(0.87, 5, 80)}


def test_without_a_driver_nothing_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent() -> None:
        raise pynvml.NVMLError_LibraryNotFound

    monkeypatch.setattr(pynvml, "nvmlInit", absent)
    assert Nvml().usage("cuda:0") is None


def test_a_process_that_has_ended_takes_nothing() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        meter = UsageMeter(["cpu"], pid=child.pid)
        assert meter.look().memory
        child.communicate(b"\n")
    gone = meter.look()
    assert (gone.memory, gone.busy_cores) == (None, None)
