"""Commands do the same however they are started: without a terminal, in another locale, zone or umask."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from competition import write_competition

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
