"""When a process is known to be dead."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from hms_tune.machine.processes import ProcessIdentity, this_process


def test_a_process_is_known_dead_only_where_that_can_be_seen() -> None:
    me = this_process()
    assert me.pid == os.getpid()
    assert not me.is_known_dead(me)
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    started = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()[19]
    identity = dataclasses.replace(me, pid=child.pid, started=int(started))
    assert not identity.is_known_dead(me)
    assert dataclasses.replace(identity, started=int(started) - 1).is_known_dead(
        me
    )  # the number was used again
    child.kill()
    child.wait()
    assert identity.is_known_dead(me)
    assert not dataclasses.replace(identity, machine="another").is_known_dead(me)
    assert not dataclasses.replace(identity, host="a clone with another name").is_known_dead(me)
    assert not ProcessIdentity("host", child.pid, None, None).is_known_dead(me)


def test_a_clone_of_a_running_machine_is_another_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A snapshot has the boot id, the process numbers and their start times of what it was taken from."""
    monkeypatch.setattr(uuid, "getnode", lambda: 0x0242AC110002)
    original = this_process()
    monkeypatch.setattr(uuid, "getnode", lambda: 0x0242AC110003)
    assert not dataclasses.replace(original, started=1).is_known_dead(this_process())
    monkeypatch.setattr(uuid, "getnode", lambda: 0x0142AC110003)  # drawn, for want of a card
    assert this_process().machine is None
