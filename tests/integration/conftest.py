"""A real PostgreSQL for every test here: the embedded server, with a database for each file of tests."""

from __future__ import annotations

import atexit
import itertools
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import psycopg2
import pytest
import torch
from fake_study import run_study
from plain_server import plain_server

from hms_tune.data.store.prepare import prepare
from hms_tune.data.store.store import Store
from hms_tune.database.connect import Storage, open_storage
from hms_tune.database.embedded.server import start_embedded
from hms_tune.reports.dashboard.publish import publish_study

_names = itertools.count()


@pytest.fixture(scope="session")
def server_url() -> Iterator[str]:
    """URL of a server's first database: of the wheel's newest, or of the first version that is named."""
    if named := os.environ.get("HMS_TUNE_TEST_POSTGRES"):
        with plain_server(Path(named.split(os.pathsep)[0])) as server:
            (server.home / "password").write_text("secret")
            server.make("--auth=scram-sha-256", "--pwfile=password")
            server.start("-c max_connections=400")
            yield server.url.replace("postgres@", "postgres:secret@")
        return
    # Not in pytest's own folder, which keeps those of the last runs.
    folder = Path(tempfile.mkdtemp(prefix="hms-tune-"))
    # Exit handlers run in reverse: the server, which registers its stop later, is gone when this removes it.
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    url = start_embedded(folder / "postgres")
    _ask(url, "ALTER SYSTEM SET fsync = off", "SELECT pg_reload_conf()")  # no test of these ends the machine
    yield url


def _ask(url: str, *statements: str) -> None:
    with closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
        connection.autocommit = True
        for statement in statements:
            cursor.execute(statement)


@pytest.fixture(scope="session")
def with_tables(server_url: str) -> str:
    """The name of a database with its tables, to be copied: that takes a moment, making them a second."""
    _ask(server_url, "CREATE DATABASE with_tables")
    open_storage(_database(server_url, "with_tables")).close()
    return "with_tables"


def _database(server_url: str, name: str) -> str:
    return server_url.replace("/postgres?", f"/{name}?")


@pytest.fixture(scope="module")
def database_url(server_url: str, with_tables: str) -> Iterator[str]:
    """URL of a database, with its tables, in which there is nothing of another file's tests."""
    name = f"tests_{next(_names)}"
    _ask(server_url, f"CREATE DATABASE {name} TEMPLATE {with_tables}")
    yield _database(server_url, name)
    _ask(server_url, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="module")
def storage(database_url: str) -> Iterator[Storage]:
    """The open database. The tests of a file share it, and keep apart by the names of their studies."""
    opened = open_storage(database_url)
    yield opened
    opened.close()


@pytest.fixture
def study_name() -> str:
    """A name no other test has."""
    return f"study-{os.getpid()}-{next(_names)}"


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory, competition_writer: Callable[..., Path]) -> Store:
    """The store of a competition of eight patients with recordings of a minute. Nobody changes it."""
    root = competition_writer(tmp_path_factory.mktemp("competition") / "root", patients=8, seconds=60)
    return prepare(root, jobs=1)


@pytest.fixture(scope="module")
def one_thread() -> None:
    """Torch computes on one thread: sums are taken in the same order everywhere."""
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def artifacts(
    request: pytest.FixtureRequest, storage: Storage, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The artifacts of a study, by the ``NAME`` that a module gives it, that has been run and published."""
    folder = tmp_path_factory.mktemp("artifacts")
    run_study(storage, request.module.NAME, folder)
    publish_study(storage, request.module.NAME, folder)
    return folder
