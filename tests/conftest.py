"""Fixtures that every test may use."""

from __future__ import annotations

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
    from competition import write_competition

    return write_competition
