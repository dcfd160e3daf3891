"""A real PostgreSQL for every test here: the embedded server, one for the whole session."""

from __future__ import annotations

import atexit
import importlib.util
import itertools
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hms_tune.service.embedded import start_embedded
from hms_tune.service.storage import Storage, open_storage

_names = itertools.count()


@pytest.fixture(scope="session")
def database_url() -> str:
    """URL of an empty database server."""
    # Not pytest's own folder: it is closed to other users, and as root the server runs as one.
    folder = Path(tempfile.mkdtemp(prefix="hms-tune-"))
    # Exit handlers run in reverse: the server, which registers its stop later, is gone when this removes it.
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return start_embedded(folder / "postgres")


@pytest.fixture(scope="session")
def storage(database_url: str) -> Iterator[Storage]:
    """The open database. Tests share it, and keep apart by the names of their studies."""
    opened = open_storage(database_url)
    yield opened
    opened.close()


@pytest.fixture
def study_name() -> str:
    """A name no other test has."""
    return f"study-{os.getpid()}-{next(_names)}"


@pytest.fixture(scope="session")
def run_study() -> Callable[..., None]:
    """The function ``run_study(storage, name, folder, *, trials=14)`` of ``studied.py``."""
    # loaded by path, as tests/conftest.py does
    spec = importlib.util.spec_from_file_location("studied", Path(__file__).with_name("studied.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    runner: Callable[..., None] = module.run_study
    return runner
