"""Commands do the same however they are started: without a terminal, in another locale, zone or umask."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from competition import write_competition
from fake_study import run_study
from small_memory import needs_mounts, with_dev_shm

from hms_tune.database.connect import Storage
from studies import ONE_TRIAL

PLAIN = {"TERM": "xterm-256color", "LC_ALL": "C.UTF-8", "TZ": "UTC", "COLUMNS": "120"}

PROGRAM = """
import json, sys
from hms_tune.cli.main import main
for arguments in json.loads(sys.argv[1]):
    sys.argv = ["hms-tune", *arguments]
    try:
        main()
    except SystemExit as ended:
        print(f"exit status {ended.code or 0}", flush=True)
"""
"""Runs commands one after another, so that what takes them long to load is loaded once."""


@dataclass(frozen=True)
class Start:
    """How commands are started."""

    environment: Mapping[str, str] = field(default_factory=dict)
    umask: int = 0o022
    encoding: str = "utf-8"
    hangup_ignored: bool = False
    python: tuple[str, ...] = ()


STARTS = {
    "a dumb terminal in the C locale": Start(
        {"TERM": "dumb", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, encoding="ascii"
    ),
    "another zone and broken variables": Start(
        {"TZ": "Pacific/Kiritimati", "OMP_NUM_THREADS": "x", "TERM": "", "NO_COLOR": "1"}, umask=0o077
    ),
    "warnings are errors": Start(python=("-W", "error")),
    "everybody may write what it makes": Start(umask=0),
    "nohup": Start(hangup_ignored=True),
    "no user's variables": Start({"USER": "", "LOGNAME": "", "SHELL": "", "HOME": "/nonexistent"}),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, storage: Storage) -> Path:
    """A folder with odd letters, in which a competition lies; the server has a study."""
    folder = tmp_path_factory.mktemp("a path with ü and 'quotes'")
    write_competition(folder / "data set", patients=6, recordings_per_patient=1)
    run_study(storage, "mine", folder / "artifacts", trials=4)
    return folder


def said(folder: Path, home: Path, start: Start = Start()) -> list[str]:
    """What commands print that read data, write a store, look at a study and steer it."""
    commands = [
        ["--version"],
        ["data", "check", "data set"],
        ["data", "folds", "data set"],
        ["data", "prepare", "data set", "--store", "a store"],
        ["data", "folds", "a store", "--json"],
        ["database", "url"],
        ["study", "list"],
        ["study", "show", "mine"],
        ["study", "show", "mine", "--csv"],
        ["study", "pause", "mine"],
        ["study", "resume", "mine"],
        ["status", "mine"],
        ["status", "nowhere"],
    ]
    ended = subprocess.run(
        [
            *["nohup"] * start.hangup_ignored,
            sys.executable,
            *start.python,
            "-c",
            PROGRAM,
            json.dumps(commands),
        ],
        cwd=folder,
        env=os.environ | PLAIN | {"HMS_TUNE_HOME": str(home)} | dict(start.environment),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        umask=start.umask,
        start_new_session=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr.decode(errors="replace")[-2000:]
    assert b"Traceback" not in ended.stderr
    return ended.stdout.decode(start.encoding).splitlines()


@pytest.fixture(scope="module")
def usual(folder: Path, home: Path) -> list[str]:
    told = said(folder, home)
    assert [line for line in told if line.startswith("exit status")] == ["exit status 0"] * 12 + [
        "exit status 2"
    ]
    return told


@pytest.mark.parametrize(
    "name", [next(iter(STARTS)), *(pytest.param(name, marks=pytest.mark.slow) for name in list(STARTS)[1:])]
)
def test_commands_say_the_same_however_they_are_started(
    name: str, folder: Path, home: Path, usual: list[str]
) -> None:
    """But for letters that the locale does not have, which are question marks there."""
    start = STARTS[name]
    told = said(folder, home, start)
    expected = [line.encode(start.encoding, "replace").decode(start.encoding) for line in usual]
    assert told == expected


@needs_mounts
@pytest.mark.slow
@pytest.mark.parametrize(
    "parts", [["--slots-per-device", "2"], ["--ranks-per-trial", "2"]], ids=["slots", "ranks"]
)
def test_a_worker_runs_where_dev_shm_has_a_mebibyte(tmp_path: Path, parts: list[str]) -> None:
    """With its embedded server, its decoders and several processes that train."""
    root = write_competition(tmp_path / "hms", patients=8, test_recordings=1)
    file = tmp_path / "study.yaml"
    file.write_text(ONE_TRIAL.format(name="small-memory").replace("trials: 1", "trials: 2"))
    command = [
        sys.executable,
        "-m",
        "hms_tune",
        "worker",
        str(file),
        "--data",
        str(root),
        "--device",
        "cpu",
        *parts,
    ]
    ended = subprocess.run(
        with_dev_shm("1m", command),
        env=os.environ | PLAIN | {"HMS_TUNE_HOME": str(tmp_path / "home"), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert "small-memory: the study is over" in ended.stderr
    assert "died" not in ended.stderr
