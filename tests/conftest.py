"""Fixtures that every test may use."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from pathlib import Path

import pytest

# Read when torch is loaded, here and in the processes that tests start: all of them share the cores.
os.environ.setdefault("GOMP_SPINCOUNT", "2000")
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def competition_writer() -> Callable[..., Path]:
    """The function ``write_competition(root, *, patients=6, …)`` of ``tests/competition.py``."""
    # loaded by path: the test folders are no packages, and nothing here is on the import path
    spec = importlib.util.spec_from_file_location("competition", Path(__file__).with_name("competition.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    writer: Callable[..., Path] = module.write_competition
    return writer
