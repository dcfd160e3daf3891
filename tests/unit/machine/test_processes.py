"""When a process is known to be dead."""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hms_tune.machine import processes
from hms_tune.machine.processes import ProcessIdentity, leave_mark, remove_mark, this_process


@pytest.fixture(autouse=True)
def memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What stands for the machine's own memory."""
    monkeypatch.setattr(processes, "MARKS", tmp_path)
    return tmp_path


def test_a_process_is_gone_from_here_only_where_that_can_be_seen() -> None:
    me = this_process()
    assert me.pid == os.getpid()
    leave_mark("worker")
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    started = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()[19]
    identity = dataclasses.replace(me, pid=child.pid, started=int(started), worker="worker")
    assert not identity.is_gone_from_here(me)
    used_again = dataclasses.replace(identity, started=int(started) - 1)
    assert used_again.is_gone_from_here(me)
    child.kill()
    child.wait()
    assert identity.is_gone_from_here(me)
    assert not dataclasses.replace(identity, machine="another").is_gone_from_here(me)
    assert not dataclasses.replace(identity, host="a clone with another name").is_gone_from_here(me)
    assert not ProcessIdentity("host", child.pid, None, None, "worker").is_gone_from_here(me)


def test_a_process_whose_name_is_cut_within_a_letter_is_read(tmp_path: Path) -> None:
    program = tmp_path / "schlafen-langeä"  # Linux keeps 15 bytes of a name
    shutil.copy("/bin/sleep", program)
    with subprocess.Popen([program, "60"]) as child:
        try:
            assert b"lange\xc3)" in Path(f"/proc/{child.pid}/stat").read_bytes()
            leave_mark("worker")
            another = dataclasses.replace(this_process(), pid=child.pid, started=1, worker="worker")
            assert another.is_gone_from_here(this_process())
        finally:
            child.kill()


def test_a_clone_of_a_running_machine_is_another_machine_even_with_its_network_address(
    memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A snapshot has the boot id, the process numbers and their start times of what it was taken from."""
    me = this_process()
    dead = dataclasses.replace(me, started=1, worker="a1b2")
    leave_mark("a1b2")  # on the original, after the snapshot was taken
    assert dead.is_gone_from_here(me)
    clone = memory / "clone"
    clone.mkdir()
    monkeypatch.setattr(processes, "MARKS", clone)
    leave_mark("c3d4")
    assert not dead.is_gone_from_here(me)


def test_a_worker_that_ended_leaves_nothing_and_no_name_leads_elsewhere(memory: Path) -> None:
    leave_mark("a1b2")
    leave_mark("a1b2")
    assert [each.name for each in memory.iterdir()] == ["hms-tune-a1b2"]
    remove_mark("a1b2")
    remove_mark("a1b2")
    assert not list(memory.iterdir())
    me = this_process()
    for named in ("../../etc/passwd", "", "x/../../etc/passwd"):
        assert not dataclasses.replace(me, started=1, worker=named).is_gone_from_here(me)


def test_where_no_mark_can_be_left_only_time_tells(memory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "MARKS", memory / "absent")
    leave_mark("a1b2")
    me = this_process()
    assert not dataclasses.replace(me, started=1, worker="a1b2").is_gone_from_here(me)
