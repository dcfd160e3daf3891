"""A competition whose trials are exported; some files of tests have their own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from hms_tune.data.store.prepare import prepare
from hms_tune.data.store.store import Store


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, competition_writer: Callable[..., Path]) -> Path:
    return competition_writer(tmp_path_factory.mktemp("competition") / "root", patients=6, test_recordings=3)


@pytest.fixture(scope="module")
def store(root: Path) -> Store:
    return prepare(root, jobs=1)
