"""Commands as a user types them, in this process."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hms_tune.cli.main import main

Run = Callable[..., tuple[int, str]]


@pytest.fixture
def hms_tune(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Iterator[Run]:
    """Run a command in ``tmp_path``; returns its exit code and what it said on standard error."""
    for name in [name for name in os.environ if name.startswith("HMS_TUNE")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HMS_TUNE_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level

    def run(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["hms-tune", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        return int(ended.value.code or 0), capfd.readouterr().err

    yield run
    root.handlers[:], root.level = handlers, level
