"""Commands as a user types them: a home of their own, its server, and a way to run them in this process."""

from __future__ import annotations

import atexit
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hms_tune.cli.main import main
from hms_tune.database.connect import Storage, open_storage
from hms_tune.database.embedded.server import start_embedded

Run = Callable[..., tuple[int, str]]


@pytest.fixture(scope="module")
def home() -> Path:
    """HMS_TUNE_HOME of a machine with an embedded server."""
    folder = Path(tempfile.mkdtemp(prefix="hms-tune-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@pytest.fixture(scope="module")
def storage(home: Path) -> Iterator[Storage]:
    """The server that the commands of ``home`` share, joined by this process so that it stays up."""
    opened = open_storage(start_embedded(home / "postgres"))
    yield opened
    opened.close()


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
