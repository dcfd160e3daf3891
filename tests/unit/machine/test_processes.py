"""When a process is known to be dead."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

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
    assert not ProcessIdentity("host", child.pid, None, None).is_known_dead(me)
