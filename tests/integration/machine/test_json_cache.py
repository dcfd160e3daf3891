"""A JSON file that several processes write at once."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest

from hms_tune.machine.json_cache import JsonCache

WRITE_TEN = """
import sys
from pathlib import Path
from hms_tune.machine.json_cache import JsonCache

cache = JsonCache(Path(sys.argv[1]))
print("ready", flush=True)
sys.stdin.readline()
for number in range(10):
    cache.keep(f"{sys.argv[2]} {number}", [number])
"""


def test_processes_that_write_at_once_lose_no_entry(tmp_path: Path) -> None:
    path = tmp_path / "home" / "times.json"
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITE_TEN, path, name], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        for name in "abcd"
    ]
    for writer in writers:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"ready\n"
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write(b"\n")
        writer.stdin.flush()
    assert [writer.wait(timeout=60) for writer in writers] == [0, 0, 0, 0]
    for writer in writers:
        writer.communicate()
    expected = {f"{name} {number}": [number] for name in "abcd" for number in range(10)}
    assert json.loads(path.read_text()) == expected


def test_a_damaged_file_holds_nothing_and_is_written_anew(tmp_path: Path) -> None:
    path = tmp_path / "times.json"
    for damaged in ("{ damaged", "[1, 2]"):
        path.write_text(damaged)
        assert JsonCache(path).get("a") is None
        JsonCache(path).keep("a", 1.25)
        assert json.loads(path.read_text()) == {"a": 1.25}


def test_a_value_that_cannot_be_written_is_kept_in_this_process(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    cache = JsonCache(tmp_path / "file" / "times.json")
    with caplog.at_level(logging.WARNING):
        cache.keep("a", 1.25)
    assert cache.get("a") == 1.25
    assert "times.json cannot be written: " in caplog.text
    assert JsonCache().get("a") is None
