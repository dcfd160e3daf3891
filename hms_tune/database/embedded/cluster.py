"""One PostgreSQL data directory, and the programs of the package that work on it.

A server started here listens on one Unix socket, in its data directory, which is closed to everyone else, and
asks for a password; one that serves a fleet listens on an address, too. PostgreSQL does not run as root; for
root it runs as the owner of the data directory, who need not reach that by its path: programs start inside
and call it ``/proc/self/cwd``.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from hms_tune.database.embedded.programs import Account, newest_version, own_account, programs, run_as
from hms_tune.errors import StorageError

SUPERUSER = "postgres"
DATABASE = "postgres"
PORT = 5432
"""Part of the socket's name."""

SOCKET = f".s.PGSQL.{PORT}"
"""The socket, as libpq looks for it in the folder that a URL names as its host."""

CONNECTIONS = 400
"""Most connections to the embedded server; PostgreSQL's own default, 100, is used up by 30 slots."""

FLEET = "hms_tune"
"""The user, and the database, of those who come over the network."""

_SHARED_MEMORY = "dynamic_shared_memory_type=mmap"
"""Between its processes, in files of the data directory: containers have 64 MB in /dev/shm, or less."""

_RULE = "local all all scram-sha-256"
_FLEETS_RULE = f"host {FLEET} {FLEET} all scram-sha-256"
_START_SECONDS = 120
"""A server that was killed reads its log again before it answers."""


@dataclass(frozen=True, slots=True)
class Listening:
    """An address that a server listens on. ``host`` is a name or number of this machine."""

    host: str = ""
    port: int = PORT


@dataclass(frozen=True, slots=True)
class Cluster:
    """A data directory that ``initdb`` made, and its server."""

    folder: Path

    @classmethod
    def create(cls, folder: Path) -> Cluster:
        """Make a data directory; it appears under its name when it is whole. Nobody may sign in yet."""
        _remove_unfinished(folder)
        unfinished = Path(tempfile.mkdtemp(prefix=_unfinished(folder), dir=folder.parent))
        try:
            if os.geteuid() == 0:
                account = own_account()
                os.chown(unfinished, account.uid, account.gid)
            made = cls(unfinished)
            made._run(
                *("initdb", f"--username={SUPERUSER}", "--auth=reject", "--encoding=UTF8"),
                f"--set={_SHARED_MEMORY}",
            )
            unfinished.rename(folder)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
        return cls(folder)

    @property
    def exists(self) -> bool:
        """Whether there is a data directory."""
        return (self.folder / "PG_VERSION").is_file()

    @property
    def log(self) -> Path:
        """What the server says."""
        return self.folder / "log"

    @property
    def asks_for_password(self) -> bool:
        """Whether its rules are this version's; an older one let in whoever reached the socket."""
        return _RULE in self._rules.read_text().splitlines()

    @property
    def runs(self) -> bool:
        """Whether a server works on it, ready or not."""
        return self._postmaster() is not None

    def set_password(self, password: str) -> None:
        """Let the superuser in by this password and nobody in without one. The server must not run."""
        if not password.isalnum():
            raise ValueError("a password of letters and digits needs no quoting")
        self._forget_dead_server()
        statement = f"ALTER ROLE {SUPERUSER} PASSWORD '{password}';\n"
        self._run("postgres", "--single", "-c", _SHARED_MEMORY, DATABASE, text=statement)
        write_private(self._rules, f"{_RULE}\n")

    def start(self, host: Path, listening: Listening = Listening()) -> None:
        """Start the server unless it runs, and wait until it accepts connections.

        Parameters
        ----------
        host : a path of the data directory that is short enough for a socket
        listening : where a server that is started listens beside its socket; by default nowhere
        """
        deadline = time.monotonic() + _START_SECONDS
        while not self._accepts(host):
            if time.monotonic() > deadline:
                raise self._failed("pg_ctl", "FATAL: the server does not answer")
            if self.runs:
                time.sleep(0.1)  # it starts, or stops
            else:
                self._launch(listening)

    def admit_fleet(self) -> None:
        """Let the fleet's user in from the network, by a password. The server must not run."""
        write_private(self._rules, f"{_RULE}\n{_FLEETS_RULE}\n")

    def stop(self) -> None:
        """End the server and the connections to it, if it runs."""
        if self.runs:
            self._run("pg_ctl", "stop", "-w", "-m", "fast")

    @property
    def _rules(self) -> Path:
        return self.folder / "pg_hba.conf"

    def _launch(self, listening: Listening) -> None:
        self._forget_dead_server()
        options = {
            "listen_addresses": listening.host,
            "port": listening.port,
            "unix_socket_directories": ".",
            "unix_socket_permissions": "0700",
            "max_connections": CONNECTIONS,
        }
        given = " ".join(
            (f"-c {_SHARED_MEMORY}", *(f"-c {name}='{value}'" for name, value in options.items()))
        )
        self._run("pg_ctl", "start", "-w", "-t", str(_START_SECONDS), "-l", self.log.name, "-o", given)
        if listening.port != PORT:  # this machine's processes know the socket by its usual name
            (self.folder / SOCKET).unlink(missing_ok=True)
            (self.folder / SOCKET).symlink_to(f".s.PGSQL.{listening.port}")

    def _accepts(self, host: Path) -> bool:
        command = (str(self._program("pg_isready")), "-h", str(host), "-p", str(PORT), "-U", SUPERUSER)
        return run_as(None, command, folder=Path("/"), environment=_environment()).returncode == 0

    def _postmaster(self) -> int | None:
        """Number of the server's process; None if what the file names has died.

        After a crash, or in a container started again, another process may have the number.
        """
        try:
            # Of a server that takes no connections, it is negative.
            pid = abs(int((self.folder / "postmaster.pid").read_text().split()[0]))
            if not Path("/proc/self").exists():  # not Linux: PostgreSQL's own word
                return pid
            stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        except (FileNotFoundError, ProcessLookupError, IndexError, ValueError):
            return None
        name, _, rest = stat.partition("(")[2].rpartition(")")
        return pid if name == "postgres" and rest.split()[0] != "Z" else None

    def _forget_dead_server(self) -> None:
        """Keep a dead server's number, which another process has now, from stopping the next server.

        PostgreSQL takes that process for the server, unless it is the one that starts it. The files stay, for
        they also say which shared memory to look for survivors in.
        """
        if self.runs:
            return
        for file in (self.folder / "postmaster.pid", *self.folder.glob(".s.PGSQL.*.lock")):
            if file.exists():
                _, *rest = file.read_text().split("\n")
                with file.open("r+") as opened:
                    opened.write("\n".join((str(os.getpid()), *rest)))
                    opened.truncate()

    def _program(self, name: str) -> Path:
        version = self.folder / "PG_VERSION"
        return programs(int(version.read_text()) if version.exists() else newest_version()) / name

    def _run(self, program: str, *arguments: str, text: str = "") -> None:
        """Run a program in the data directory, as its owner."""
        owner = Account.of(self.folder) if os.geteuid() == 0 else None
        environment = _environment() | {"PGDATA": "/proc/self/cwd" if owner else str(self.folder)}
        command = (str(self._program(program)), *arguments)
        done = run_as(owner, command, folder=self.folder, environment=environment, text=text)
        # A session without a server ends well whatever became of its statements.
        if done.returncode != 0 or "ERROR:" in done.stderr:
            raise self._failed(program, done.stderr or done.stdout)

    def _failed(self, program: str, said: str) -> StorageError:
        log = self.log.read_text(errors="replace") if program == "pg_ctl" and self.log.exists() else ""
        # Only lines of these kinds: others may repeat a statement, and with it a password.
        told = [
            line.strip()
            for line in f"{log}\n{said}".splitlines()
            if any(kind in line for kind in ("FATAL:", "ERROR:", "error:", f"{program}:"))
        ]
        fatal = [line for line in told if "FATAL:" in line] or told or [f"{program} failed"]
        hint = f"Read {self.log}" if log and self.log.exists() else "Fix what it says"
        if "could not look up effective user ID" in said:
            hint = "Give this user a line in /etc/passwd"
        return StorageError(
            f"{program} of the embedded PostgreSQL failed: {fatal[-1]}",
            where=self.folder,
            hint=f"{hint}, or name a server with --storage",
        )


def _environment() -> dict[str, str]:
    """This process's, without settings that are for clients, or for another server of this user."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PG")}


def write_private(file: Path, text: str) -> None:
    """Replace a file by one that its owner alone may read, who is the owner of the folder."""
    handle, written = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)
    with os.fdopen(handle, "w") as opened:
        if os.geteuid() == 0:
            owner = Account.of(file.parent)
            os.fchown(handle, owner.uid, owner.gid)
        opened.write(text)
        opened.flush()
        os.fsync(handle)
    os.replace(written, file)


def _unfinished(folder: Path) -> str:
    return f".{folder.name}.unfinished-"


def _remove_unfinished(folder: Path) -> None:
    for left in folder.parent.glob(f"{_unfinished(folder)}*"):
        shutil.rmtree(left, ignore_errors=True)  # initdb may have outlived a process that was killed
