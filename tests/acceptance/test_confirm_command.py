"""From a finished search to a confirmed winner, with the commands that a team types."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from hms_tune.database.connect import Storage
from hms_tune.studies.trial_record import study_record

Run = Callable[..., tuple[int, str]]

STUDY = """
study: tiny
data: {root: hms, folds: 2, holdout: 0.2}
input: {eeg: {name: stft, n_fft: 256}, image: [32, 64], channels: 1}
model: {backbone: test_resnet, pretrained: false, dropout: {low: 0.0, high: 0.5}}
training: {epochs: 1, batch_size: 8}
search: {sampler: random, pruner: none}
budget: {trials: 3}
tracking: {wandb: {mode: off}}
"""


@pytest.mark.slow
def test_a_finished_study_is_confirmed_by_a_worker_that_is_started_again(
    hms_tune: Run,
    tmp_path: Path,
    competition_writer: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    storage: Storage,
    home: Path,
) -> None:
    competition_writer(tmp_path / "hms", patients=10, seconds=51)
    (tmp_path / "tiny.yaml").write_text(STUDY)
    monkeypatch.setenv("HMS_TUNE_HOME", str(home))

    def run(*arguments: str) -> str:
        code, said = hms_tune(*arguments)
        assert code == 0, said
        return said

    run("worker", "tiny")
    run("study", "confirm", "tiny", "--top", "2", "--seeds", "2")
    said = run("worker", "tiny")
    assert "tiny is over; its leading trials are confirmed" in said
    assert "the study is over" in said
    ranked = study_record(storage, "tiny").ranked
    assert len(ranked) == 3
    assert len(study_record(storage, "tiny-confirm").ranked) == 4
    run("status", "tiny")
    run("study", "report", "tiny", "--out", "report.html")
    assert "<h2>Confirmation</h2>" in (tmp_path / "report.html").read_text()
    assert "the winner of the confirmation" in run("export-best", "tiny")
    (bundle,) = [path for path in (tmp_path / "bundles").iterdir() if not path.is_symlink()]
    assert "## Confirmation" in (bundle / "README.md").read_text()
    config = json.loads((bundle / "config.json").read_text())
    assert config["trial"] in [trial.trial for trial in ranked[:2]]
    # Over, and nothing is left to do.
    run("worker", "tiny")
    assert len(study_record(storage, "tiny-confirm").trials) == 4
    run("study", "delete", "tiny", "--yes")
    with pytest.raises(KeyError):
        storage.optuna.get_study_id_from_name("tiny-confirm")
