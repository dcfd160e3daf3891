"""A PostgreSQL of one's own, that can be stopped, killed and started again."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hms_tune.database.embedded.cluster import Cluster
from hms_tune.database.embedded.server import start_embedded


class OwnServer:
    """The embedded server on a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.url = start_embedded(folder)

    def kill(self) -> None:
        """End it at once, as a crash would: it recovers from its log when it starts again."""
        pid = int((self._folder / "data" / "postmaster.pid").read_text().splitlines()[0])
        os.kill(pid, signal.SIGQUIT)
        while Path(f"/proc/{pid}").exists() and _state(pid) != "Z":
            time.sleep(0.01)

    def start(self) -> None:
        """Start it again."""
        assert start_embedded(self._folder) == self.url

    def stop(self) -> None:
        """End it in order."""
        Cluster(self._folder / "data").stop()


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "Z"


@contextmanager
def own_server() -> Iterator[OwnServer]:
    """A fresh server, gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="hms-tune-faults-"))
    server = OwnServer(folder / "postgres")
    try:
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)
