"""What the demo's export tells those who compare runs."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hms_tune.cli import demo
from hms_tune.config.study_file import StudyFile
from hms_tune.machine.terminal import Terminal
from hms_tune.studies.record_writer import Equipment


def test_the_demos_export_says_on_which_device_and_data_it_ran(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {}

    def trackers(*_: object, **given: Any) -> list[object]:
        asked.update(given)
        return []

    store = SimpleNamespace(manifest=SimpleNamespace(digest="digest-1"))
    choice = SimpleNamespace(winner=SimpleNamespace(number=3))
    for name, value in {
        "tracking.observers.trackers": trackers,
        "data.store.store.Store.open": lambda _: store,
        "database.connect.open_storage": lambda _: SimpleNamespace(close=lambda: None),
        "machine.device.resolve_device": lambda _: "cpu",
        "studies.export_best.best_trial": lambda *_: choice,
        "studies.export_best.export_watched": lambda *_, **given: asked.update(given),
        "export.place.point_to_newest": lambda *_: None,
        "export.scores.read_scores": lambda _: None,
    }.items():
        monkeypatch.setattr(f"hms_tune.{name}", value)
    demo._export(demo.Demo(tmp_path, 60, 12), StudyFile.parse("study: demo", "demo.yaml"), Terminal())
    assert asked["equipment"] == Equipment("cpu", 0.0, "digest-1")
    assert len(asked["observers"]) == 1
