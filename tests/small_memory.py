"""Commands on a machine with too little shared memory: a real, tiny /dev/shm that no other process sees."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence

import pytest


def with_dev_shm(size: str, command: Sequence[str]) -> list[str]:
    """The command in mounts of its own, where /dev/shm is of that size."""
    script = 'mount -t tmpfs -o size="$0" tmpfs /dev/shm && exec "$@"'
    return ["unshare", "--mount", "sh", "-c", script, size, *command]


def _allowed() -> bool:
    try:
        return subprocess.run(with_dev_shm("4k", ["true"]), capture_output=True, check=False).returncode == 0
    except OSError:
        return False


needs_mounts = pytest.mark.skipif(not _allowed(), reason="mounts of one's own are not allowed here")
