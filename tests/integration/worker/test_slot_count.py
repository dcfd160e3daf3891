"""Real probes on this machine's CPU."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Callable
from pathlib import Path

import pytest

from hms_tune.config.trial import TrialConfig
from hms_tune.data.store.prepare import prepare
from hms_tune.errors import TrainingError
from hms_tune.worker.slot_count.choose import Work, slots_that_pay
from hms_tune.worker.slot_count.measure import DeviceProbes, ProbePlan

TINY = TrialConfig.model_validate(
    {
        "data": {"folds": 2},
        "input": {"eeg": {"name": "stft", "n_fft": 256}, "image": [32, 64]},
        "model": {"backbone": "test_resnet", "pretrained": False},
        "training": {"batch_size": 4},
    }
)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, competition_writer: Callable[..., Path]) -> Path:
    folder = competition_writer(tmp_path_factory.mktemp("probing") / "competition", patients=6)
    prepare(folder)
    return folder


@pytest.mark.slow
def test_two_probes_train_at_once_and_the_result_is_kept(root: Path, tmp_path: Path) -> None:
    memory = tmp_path / "slots.json"
    work = Work(TINY, TINY, "digest")
    probes = DeviceProbes(ProbePlan(TINY, TINY, root, "cpu", seconds=0.5))
    slots = slots_that_pay(probes, work, most=2, memory=memory)
    assert slots in (1, 2)
    ((name, table),) = json.loads(memory.read_text()).items()
    assert "threads, torch" in name
    assert [row["slots"] for row in table] == [1, 2]
    assert all(row["images_per_second"] > 10 and 0.0 < row["memory"] < 0.9 for row in table)


def test_a_probe_that_fails_says_why(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fork = multiprocessing.get_context("fork")  # which need not load torch again
    monkeypatch.setattr(multiprocessing, "get_context", lambda _: fork)
    unknown = TrialConfig.model_validate({"model": {"backbone": "resnet18", "frozen_layers": 99}})
    with DeviceProbes(ProbePlan(unknown, unknown, root, "cpu", seconds=0.2)) as opened:
        opened.device_name()
        with pytest.raises(TrainingError, match="resnet18"):
            opened.add()
