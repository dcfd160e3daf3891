"""Processes start alike wherever they are started: files of a working folder are no modules of theirs."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from hms_tune.data.store.prepare import prepare
from hms_tune.machine.child_processes import SAFE, start_safely


def tell_folder(pipe: Connection) -> None:
    """Import what spawned processes import, and say that it worked."""
    import queue
    import types

    assert hasattr(queue, "SimpleQueue")
    assert hasattr(types, "SimpleNamespace")
    pipe.send(os.getcwd())


@pytest.fixture
def notebooks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with names of Python's own modules."""
    for name in ("signal", "queue", "types", "random", "pickle", "struct"):
        (tmp_path / f"{name}.py").write_text(f"raise RuntimeError('the {name}.py of the working folder')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(SAFE, raising=False)
    return tmp_path


def test_a_process_of_a_slot_imports_nothing_from_the_working_folder(notebooks: Path) -> None:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=tell_folder, args=(theirs,))
    start_safely(process)
    theirs.close()
    assert ours.recv() == str(notebooks)
    process.join()
    assert process.exitcode == 0
    assert SAFE not in os.environ


def test_a_decoder_imports_nothing_from_the_working_folder(
    notebooks: Path, tmp_path_factory: pytest.TempPathFactory, competition_writer: Callable[..., Path]
) -> None:
    root = competition_writer(tmp_path_factory.mktemp("data") / "hms", patients=8)
    assert len(prepare(root, jobs=2).recordings) == 18
