"""Which slots a worker has."""

from __future__ import annotations

import pytest

from hms_tune.errors import UsageError
from hms_tune.worker.devices import gpu_share, slot_devices


def test_the_cpu_is_one_slot_or_several() -> None:
    assert slot_devices("cpu", 1) == (("cpu", "cpu"),)
    assert slot_devices("cpu", 2) == (("cpu-0", "cpu"), ("cpu-1", "cpu"))
    for device, slots in (("cuda:99", 1), ("tpu", 1), ("cpu,cpu", 1), ("cpu", 0)):
        with pytest.raises(UsageError):
            slot_devices(device, slots)


def test_each_device_has_slots_of_its_own_number() -> None:
    assert slot_devices("cpu", {"cpu": 2}) == (("cpu-0", "cpu"), ("cpu-1", "cpu"))


def test_slots_that_share_a_gpu_have_a_part_of_it_each() -> None:
    assert gpu_share("cuda:0", ["cuda:0", "cuda:1", "cuda:0"]) == 0.5
    assert gpu_share("cuda:1", ["cuda:0", "cuda:1", "cuda:0"]) == 1.0
    assert gpu_share("cpu", ["cpu", "cpu"]) == 0.0
