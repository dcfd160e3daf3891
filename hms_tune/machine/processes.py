"""Which process holds something, so that others on the same machine see when it is gone."""

from __future__ import annotations

import os
import re
import socket
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

MARKS = Path("/dev/shm")
"""Memory of the machine: what lies here is seen by no other, and ends when the machine does."""

_NAME = re.compile(r"[\w-]{1,64}")


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """A process, told apart from any later one with the same number.

    ``started`` is the kernel's start time of the process in clock ticks since boot, and ``machine`` the boot
    id with the process namespace: two containers on one host see different processes. Either is empty where
    the system does not tell, and then only a lease's expiry ends it. ``worker`` names the worker that the
    process belongs to, whose mark (:func:`leave_mark`) says that it ran on this machine.
    """

    host: str
    pid: int
    started: int | None
    machine: str | None
    worker: str | None = None

    def is_gone_from_here(self, observer: ProcessIdentity) -> bool:
        """Whether ``observer``, a process of this machine, sees that this process ran here and is gone.

        It may live on another machine, which was cloned from this one while it ran: a snapshot has all that
        is compared here. So whoever acts on this waits first for a sign of life.
        """
        if self.machine is None or self.started is None:
            return False
        if (self.host, self.machine) != (observer.host, observer.machine):
            return False
        # Machines cloned from one that ran have its name and its boot id, and may have its network address.
        if self.worker is None or not _mark(self.worker).exists():
            return False
        return _start_ticks(self.pid) != self.started


def this_process() -> ProcessIdentity:
    """The identity of the calling process."""
    pid = os.getpid()
    return ProcessIdentity(host=socket.gethostname(), pid=pid, started=_start_ticks(pid), machine=_machine())


def leave_mark(worker: str) -> None:
    """Say on this machine that a worker runs here. Where that is not possible, only time tells its death."""
    with suppress(OSError):
        os.close(os.open(_mark(worker), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))


def remove_mark(worker: str) -> None:
    """Take the mark away: the worker has ended, and said so."""
    with suppress(OSError):
        _mark(worker).unlink()


def _mark(worker: str) -> Path:
    """Where the mark of a worker lies. Its name is random: no clone of the machine has it by chance."""
    return MARKS / f"hms-tune-{worker if _NAME.fullmatch(worker) else ''}"


def _start_ticks(pid: int) -> int | None:
    """Field 22 of /proc/PID/stat (proc(5)); None when the process is gone, a zombie, or there is no /proc."""
    try:
        # A name is cut after 15 bytes, maybe within a letter, and may be of any encoding.
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
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
    return f"{boot}:{namespace}"
