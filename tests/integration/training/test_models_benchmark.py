"""The benchmark of images, traces and their blend, in its short form."""

from __future__ import annotations

from pathlib import Path

import pytest

from hms_tune.data.store.store import Store


@pytest.mark.slow
def test_the_benchmark_of_models_trains_all_and_goes_on_where_it_was(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[3] / "benchmarks"))
    import models

    images, traces = {"eeg": "stft", "image": [32, 64]}, {"eeg": "raw", "image": [32, 64]}
    arms = {
        "images": {"input": images, "model": {"backbone": "test_resnet", "pretrained": False}},
        "traces": {"input": traces, "model": {"backbone": "eegnet", "pretrained": False}},
    }
    table = models.compare(store, arms, tmp_path, seconds=0.01, seeds=2)
    rows = [line.strip("| ").split(" | ") for line in table.splitlines()[2:]]
    assert [row[0] for row in rows] == ["images", "traces", "their blend", "class prior"]
    assert all(0.0 < float(kl) < 10.0 for row in rows for kl in (row[1], *row[2].split(", ")))
    assert [row[3] for row in rows[:2]] == ["1, 1", "1, 1"]

    assert capsys.readouterr().err.count("epochs") == 4
    (tmp_path / "traces-0.01s-1.npz").unlink()
    models.compare(store, arms, tmp_path, seconds=0.01, seeds=2)
    assert capsys.readouterr().err == "traces, seed 1: 1 epochs\n"
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.npz")}
    models.compare(store, arms, tmp_path, seconds=0.01, seeds=2)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.npz")} == before
