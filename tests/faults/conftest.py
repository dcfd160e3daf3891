"""The modules of this folder import one another by name; so do the processes that they start."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hms_tune.database.connect import Storage, open_storage

if str(Path(__file__).parent) not in sys.path:
    sys.path.insert(0, str(Path(__file__).parent))

if TYPE_CHECKING:
    from fleet import Fleet
    from proxy import Proxy
    from server import OwnServer


@pytest.fixture(scope="session")
def server() -> Iterator[OwnServer]:
    """A PostgreSQL for all tests of this folder but the campaign, which kills its own."""
    from server import own_server

    with own_server() as own:
        yield own


@pytest.fixture(scope="session")
def storage(server: OwnServer) -> Iterator[Storage]:
    """Straight to the server, which writes down what happens."""
    import history
    from tiny import study_file

    from hms_tune.worker.open_study import open_search

    opened = open_storage(server.url)
    open_search(opened, study_file("first", trials=1))  # Optuna's tables are whole before history begins
    history.begin(opened.engine)
    yield opened
    opened.close()


@pytest.fixture
def proxy(server: OwnServer) -> Iterator[Proxy]:
    """Between a test and the server."""
    from proxy import Proxy

    made = Proxy(server.url)
    yield made
    made.close()


@pytest.fixture
def through_proxy(proxy: Proxy, storage: Storage) -> Iterator[Storage]:
    """The same database, through a proxy of this test's own."""
    opened = open_storage(proxy.url)
    yield opened
    proxy.restore()
    opened.close()


@pytest.fixture
def fleet() -> Iterator[Fleet]:
    """Worker processes, gone afterwards."""
    from fleet import Fleet

    made = Fleet()
    yield made
    made.close()
