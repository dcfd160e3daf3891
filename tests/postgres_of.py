"""A server of any PostgreSQL's programs, which the whole machine may enter by its password."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hms_tune.database.embedded.programs import own_account, run_as


@contextmanager
def server_of(programs: Path, *, connections: int = 100) -> Iterator[str]:
    """URL of an empty server of the programs in a folder, for the length of the block."""
    account = own_account() if os.geteuid() == 0 else None
    home = Path(tempfile.mkdtemp(prefix="hms-tune-", dir="/tmp"))
    if account is not None:
        os.chown(home, account.uid, account.gid)

    def run(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return run_as(account, (str(programs / program), "-D", "data", *arguments), folder=home)

    try:
        (home / "password").write_text("secret")
        (home / "password").chmod(0o644)
        made = run(
            *("initdb", "--username=postgres", "--encoding=UTF8", "--auth=scram-sha-256"),
            "--pwfile=password",
        )
        assert made.returncode == 0, made.stderr
        home.chmod(0o755)
        options = f"-c listen_addresses='' -c unix_socket_directories={home} -c max_connections={connections}"
        started = run("pg_ctl", "start", "-w", "-l", "log", "-o", options)
        assert started.returncode == 0, started.stderr
        yield f"postgresql://postgres:secret@/postgres?host={home}&port=5432"
    finally:
        run("pg_ctl", "stop", "-m", "immediate")
        shutil.rmtree(home, ignore_errors=True)
