"""A search on each PostgreSQL of this machine: those of the wheel, and Debian's where it is installed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_study import run_study
from plain_server import plain_server, versions

from hms_tune.database.connect import open_storage
from hms_tune.database.read_only import open_read_only, open_to_read
from hms_tune.studies.status import status


@pytest.fixture(params=versions())
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    """URL of a server that the whole machine may enter, for the length of a test."""
    with plain_server(request.param) as server:
        server.make()
        server.start()
        yield server.url


@pytest.mark.slow
def test_a_study_runs_and_is_read(url: str, tmp_path: Path) -> None:
    storage = open_storage(url)
    run_study(storage, "mine", tmp_path)
    ended = status(storage, "mine").trials
    storage.close()
    for opening in (open_to_read, open_read_only):
        reading = opening(url)
        assert status(reading, "mine").trials == ended
        reading.close()
