"""Which process holds something, so that its death can be seen at once by others on the same machine."""

from __future__ import annotations

import os
import socket
import uuid
from dataclasses import dataclass
from pathlib import Path

_MADE_UP = 1 << 40
"""Set in a number that was drawn where no network card was found (RFC 9562, section 6.10)."""


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """A process, told apart from any later one with the same number.

    ``started`` is the kernel's start time of the process in clock ticks since boot, and ``machine`` the boot
    id with the process namespace and the address of a network card: two containers on one host see different
    processes, and machines cloned from one that ran have its boot id. Either is empty where the system does
    not tell, and then only a lease's expiry ends it.
    """

    host: str
    pid: int
    started: int | None
    machine: str | None

    def is_known_dead(self, observer: ProcessIdentity) -> bool:
        """Whether ``observer``, a process of this machine, can tell that this process is gone."""
        if self.machine is None or self.started is None:
            return False
        if (self.host, self.machine) != (observer.host, observer.machine):
            return False
        return _start_ticks(self.pid) != self.started


def this_process() -> ProcessIdentity:
    """The identity of the calling process."""
    pid = os.getpid()
    return ProcessIdentity(host=socket.gethostname(), pid=pid, started=_start_ticks(pid), machine=_machine())


def _start_ticks(pid: int) -> int | None:
    """Field 22 of /proc/PID/stat (proc(5)); None when the process is gone, a zombie, or there is no /proc."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()  # the name before it may hold spaces and parentheses
    state, started = fields[0], fields[19]
    return None if state in {"Z", "X"} else int(started)


def _machine() -> str | None:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        namespace = Path("/proc/self/ns/pid").stat().st_ino
    except OSError:
        return None
    card = uuid.getnode()
    return None if card & _MADE_UP else f"{boot}:{namespace}:{card:x}"
