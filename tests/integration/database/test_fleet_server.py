"""The embedded server on an address, as a fleet without a PostgreSQL of its own uses it."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg2
import pytest
from sqlalchemy.engine import make_url

from hms_tune.database.connect import open_storage
from hms_tune.database.embedded.fleet_server import serve_fleet
from hms_tune.errors import UsageError
from hms_tune.studies.status import list_studies


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


@contextmanager
def serving(home: Path, port: int, address: Path) -> Iterator[subprocess.Popen[str]]:
    """``hms-tune database serve`` on loopback, from its first word to its end."""
    place = ("--host", "127.0.0.1", "--port", str(port), "--address-file", str(address))
    process = subprocess.Popen(
        [sys.executable, "-m", "hms_tune", "database", "serve", *place],
        env=os.environ | {"HMS_TUNE_HOME": str(home), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == f"serving on 127.0.0.1:{port}; the address is in {address}\n"
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) in (0, -signal.SIGKILL)


def test_a_fleet_signs_in_by_the_written_address_and_nobody_without_its_password(tmp_path: Path) -> None:
    port, file = free_port(), tmp_path / "address"
    with serving(tmp_path / "home", port, file):
        address = file.read_text().strip()
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        storage = open_storage(address)
        assert list_studies(storage) == []
        assert storage.server().host == "127.0.0.1"
        storage.close()
        url = make_url(address)
        for user, password, base in (
            (url.username, "wrong", url.database),
            ("postgres", url.password, "postgres"),
            ("postgres", (tmp_path / "home/postgres/password").read_text().strip(), "postgres"),
        ):
            with pytest.raises(psycopg2.OperationalError):
                psycopg2.connect(host="127.0.0.1", port=port, user=user, password=password, dbname=base)
    with pytest.raises(psycopg2.OperationalError, match="refused"):
        psycopg2.connect(address)


def test_the_password_outlives_a_restart_and_a_server_that_was_killed(tmp_path: Path) -> None:
    port, file = free_port(), tmp_path / "address"
    with serving(tmp_path / "home", port, file):
        first = file.read_text()
    with serving(tmp_path / "home", port, file) as process:
        assert file.read_text() == first
        process.kill()  # PostgreSQL itself goes on, and is started anew by the next
        process.wait()
    other = free_port()
    with serving(tmp_path / "home", other, file):
        assert make_url(file.read_text()).password == make_url(first).password
        assert make_url(file.read_text()).port == other
        open_storage(file.read_text().strip()).close()


def test_a_host_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no name or number of a machine"):
        serve_fleet(tmp_path / "postgres", "0.0.0.0' -c x='", 5432)
