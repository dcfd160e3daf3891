"""Commands do the same however they are started: without a terminal, in another locale, zone or umask."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from competition import write_competition
from small_memory import needs_mounts, with_dev_shm

from studies import ONE_TRIAL

PLAIN = {"TERM": "xterm-256color", "LC_ALL": "C.UTF-8", "TZ": "UTC"}


def checked(root: Path, umask: int = 0o022, **circumstances: str) -> str:
    """What ``data check`` says of a folder, with what it needs of its surroundings taken away."""
    command = [sys.executable, "-m", "hms_tune", "data", "check", str(root)]
    ended = subprocess.run(
        command,
        env=os.environ | PLAIN | circumstances,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        umask=umask,
        start_new_session=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr.decode(errors="replace")[-2000:]
    return ended.stdout.decode()


@pytest.mark.parametrize(
    ("encoding", "circumstances"),
    [
        ("ascii", {"TERM": "dumb", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}),
        ("utf-8", {"TZ": "Pacific/Kiritimati", "PYTHONWARNINGS": "error", "OMP_NUM_THREADS": "x"}),
    ],
    ids=["dumb and C", "elsewhere"],
)
@pytest.mark.slow
def test_a_check_says_the_same_in_a_folder_with_odd_letters(
    tmp_path: Path, encoding: str, circumstances: dict[str, str]
) -> None:
    """But for letters that the locale does not have, which are question marks there."""
    root = write_competition(tmp_path / "a path with ü", patients=6, recordings_per_patient=1)
    usual = checked(root).encode(encoding, "replace").decode()
    told = checked(root, umask=0o077, **circumstances)
    assert told.split()[:12] == usual.split()[:12]
    assert "a path with" in told
    assert len(told.splitlines()) == len(usual.splitlines())


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
