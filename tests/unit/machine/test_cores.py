"""How many cores a slot may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hms_tune.machine.cores import cpu_threads, usable_cores


def test_slots_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert [cpu_threads(1), cpu_threads(10_000)] == [usable_cores(), 1]
    assert usable_cores() <= len(os.sched_getaffinity(0))
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert cpu_threads(1) == 3


def test_hardware_threads_of_a_core_count_once_and_a_container_counts_its_share(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _process: {0, 1, 2, 3, 4, 5, 6, 7})
    for number in range(8):
        folder = tmp_path / f"devices/system/cpu/cpu{number}/topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(f"{number % 4},{number % 4 + 4}\n")
    assert usable_cores(tmp_path) == 4
    share = tmp_path / "fs/cgroup/cpu.max"
    share.parent.mkdir(parents=True)
    for text, cores in (("max 100000", 4), ("250000 100000", 3), ("20000 100000", 1), ("900000 100000", 4)):
        share.write_text(text)
        assert usable_cores(tmp_path) == cores
    assert usable_cores(tmp_path / "nothing there") == 8
