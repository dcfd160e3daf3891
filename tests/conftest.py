"""Fixtures that every test may use."""

from __future__ import annotations

import gc
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

# Read when torch is loaded, here and in the processes that tests start: all of them share the cores.
os.environ.setdefault("GOMP_SPINCOUNT", "2000")
os.environ.setdefault("OMP_NUM_THREADS", "1")

# What test modules import stays: it is looked through for garbage neither while it is loaded nor ever again.
gc.disable()


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop() -> None:
    """All that test modules import is there. xdist's first process, which has none, comes here too."""
    gc.collect()
    gc.freeze()
    gc.enable()
    # pytest hangs its handlers on every logger that does not hand on, anew for each part of each test. Torch
    # has sixty of them.
    for name, logger in logging.root.manager.loggerDict.items():
        if name.startswith("torch.") and isinstance(logger, logging.Logger):
            logger.propagate = True


@pytest.fixture(scope="session")
def competition_writer(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """The function ``write_competition(root, *, patients=6, …)`` of ``tests/competition.py``.

    Of each kind a folder is written once and copied from then on, which takes next to no time.
    """
    from competition import write_competition

    kinds: dict[str, Path] = {}

    def copied(root: Path, **kind: Any) -> Path:
        name = repr(sorted(kind.items()))
        if name not in kinds:
            kinds[name] = write_competition(tmp_path_factory.mktemp("kind") / "root", **kind)
        return Path(shutil.copytree(kinds[name], root, copy_function=shutil.copyfile, dirs_exist_ok=True))

    return copied
