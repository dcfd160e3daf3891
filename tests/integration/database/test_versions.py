"""A search on each PostgreSQL of this machine: those of the wheel, Debian's, and those that are named."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psycopg2
import pytest
from fake_study import run_study
from plain_server import plain_server, programs_of, versions

from hms_tune.database.connect import OLDEST_SERVER, check_server, open_storage
from hms_tune.database.read_only import open_read_only, open_to_read
from hms_tune.errors import StorageError
from hms_tune.studies.status import status


@pytest.fixture(params=versions())
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    """URL of a server that the whole machine may enter, for the length of a test."""
    with plain_server(programs_of(request.param)) as server:
        server.make()
        server.start()
        yield server.url


def major_of(url: str) -> int:
    connection = psycopg2.connect(url)
    major = connection.info.server_version // 10_000
    connection.close()
    return int(major)


@pytest.mark.slow
def test_a_study_runs_and_is_read_and_an_older_server_is_refused_with_nothing_made(
    url: str, tmp_path: Path
) -> None:
    if major_of(url) < OLDEST_SERVER:
        with pytest.raises(StorageError, match=rf"is PostgreSQL {major_of(url)}, and {OLDEST_SERVER} is the"):
            open_storage(url)
        with psycopg2.connect(url) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM pg_tables WHERE schemaname IN ('public', 'hms_tune')")
            assert cursor.fetchone() == (0,)
        return
    storage = open_storage(url)
    run_study(storage, "mine", tmp_path)
    ended = status(storage, "mine").trials
    storage.close()
    for opening in (open_to_read, open_read_only):
        reading = opening(url)
        assert status(reading, "mine").trials == ended
        reading.close()


def a_connection(server_version: int) -> Any:
    """What is asked of a connection, to a server of a version that is not at hand."""
    info = SimpleNamespace(server_version=server_version, parameter_status=lambda name: "UTF8")
    return SimpleNamespace(connection=SimpleNamespace(dbapi_connection=SimpleNamespace(info=info)))


@pytest.mark.parametrize(("version", "told"), [(120_022, 12), (110_022, 11), (90_624, 9)])
def test_an_older_server_is_refused_with_its_version_and_what_to_do(version: int, told: int) -> None:
    with pytest.raises(
        StorageError, match=rf"db: the server is PostgreSQL {told}, and 13 is the oldest .*Upgrade it"
    ):
        check_server(a_connection(version), "db")


@pytest.mark.parametrize("version", [130_000, 130_023, 180_004, 190_000])
def test_the_oldest_server_and_newer_ones_are_taken(version: int) -> None:
    check_server(a_connection(version), "db")
