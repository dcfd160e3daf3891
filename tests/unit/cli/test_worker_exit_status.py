"""What whoever started a worker learns of its end."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from hms_tune.cli.main import main
from hms_tune.worker.worker import Worker

STUDY = """
study: tiny
model: {backbone: test_resnet, pretrained: false, dropout: {low: 0.0, high: 0.3}}
budget: {trials: 1}
"""


@pytest.mark.parametrize(("has_more", "status"), [(True, os.EX_TEMPFAIL), (False, 0)])
def test_the_exit_status_says_whether_there_is_more_to_do(
    has_more: bool, status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "tiny.yaml"
    file.write_text(STUDY)
    monkeypatch.setattr(Worker, "run", lambda worker: has_more)
    monkeypatch.setenv("HMS_TUNE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(sys, "argv", ["hms-tune", "worker", str(file), "--data", str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert (ended.value.code or 0) == status
