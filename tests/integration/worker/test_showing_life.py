"""A file shows that a worker lives, and the image's health check reads it."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from pathlib import Path

from compose import Dockerfile

from hms_tune.worker.presence import showing_life


def healthy(home: Path) -> bool:
    """What the image's HEALTHCHECK says of a worker of this home."""
    check = Dockerfile.read().healthcheck
    return (
        subprocess.run(
            ["sh", "-c", check],
            env=os.environ | {"HMS_TUNE_HOME": str(home)},
            capture_output=True,
            check=False,
        ).returncode
        == 0
    )


def test_the_health_check_passes_while_the_worker_lives_and_fails_when_it_is_stuck(tmp_path: Path) -> None:
    assert not healthy(tmp_path)
    with showing_life(tmp_path):
        file = tmp_path / "alive" / socket.gethostname()
        deadline = time.monotonic() + 30.0
        while not file.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        assert healthy(tmp_path)
        long_ago = time.time() - 150.0
        os.utime(file, (long_ago, long_ago))  # as a process leaves it that was stopped
        assert not healthy(tmp_path)
    assert not file.exists()
