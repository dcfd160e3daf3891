"""TLS and password files, against a real PostgreSQL behind a door that speaks TLS; and where passwords go."""

from __future__ import annotations

import os
import shutil
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from postgres_front import front
from roles import a_role
from sqlalchemy import create_engine, text
from sqlalchemy.engine import URL

from hms_tune.database.connect import open_storage
from hms_tune.database.connection.url import parse_address, without_secrets
from hms_tune.database.read_only import open_read_only
from hms_tune.errors import StorageError

CANARY = "canary{%p@ss/word"
STUDY = """
study: canary
data: {folds: 2, holdout: 0.0}
input: {eeg: {name: stft, n_fft: 256}, image: [32, 32], channels: 1}
model: {backbone: test_resnet, pretrained: false, dropout: {low: 0.1, high: 0.3}}
training: {epochs: 1, batch_size: 8}
search: {sampler: random, pruner: none}
budget: {trials: 1}
tracking: {wandb: {mode: offline}}
"""


def certificate(folder: Path, name: str) -> tuple[Path, Path]:
    """A self-signed certificate for ``localhost``, and its key."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl command to make a certificate with")
    crt, key = folder / f"{name}.crt", folder / f"{name}.key"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"),
            *("-days", "2", "-subj", f"/CN={name}", "-addext", "subjectAltName=DNS:localhost"),
            *("-keyout", str(key), "-out", str(crt)),
        ],
        check=True,
        capture_output=True,
    )
    return crt, key


@dataclass(frozen=True)
class Server:
    """A database whose only user needs a password."""

    socket: Path
    user: str

    def url(self, port: int, *, password: str | None = None, host: str = "localhost", query: str = "") -> str:
        given = "" if password is None else f":{password}"
        return f"postgresql://{self.user}{given}@{host}:{port}/{self.user}{query}"


@pytest.fixture(scope="module")
def server(database_url: str) -> Iterator[Server]:
    """The session's server, with one user who must sign in with SCRAM."""
    with a_role(database_url, f"fleet_{os.getpid()}", CANARY) as role:
        yield Server(role.socket, role.name)


@pytest.fixture(scope="module")
def tls(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, Path, Path]]:
    """A door with TLS, the certificate it shows, and another that it does not."""
    folder = tmp_path_factory.mktemp("certificates")
    crt, key = certificate(folder, "database")
    other, _ = certificate(folder, "other")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(crt, key)
    with front(server.socket, context=context) as door:
        yield door, crt, other


@pytest.fixture
def passfile(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = tmp_path / "pgpass"
    file.write_text(f"*:*:*:{server.user}:{CANARY}\n")
    file.chmod(0o600)
    monkeypatch.setenv("PGPASSFILE", str(file))
    return file


def test_a_verified_tls_connection_with_a_password_file(
    server: Server, tls: tuple[Any, Path, Path], passfile: Path
) -> None:
    door, crt, _ = tls
    url = server.url(door.port, query=f"?sslmode=verify-full&sslrootcert={crt}")
    for opening in (open_storage, open_read_only):
        before = door.encrypted
        storage = opening(url)
        with storage.engine.connect() as connection:
            driver: Any = connection.connection.dbapi_connection
            assert driver.info.ssl_in_use
        storage.close()
        assert door.encrypted > before
    assert door.refused == 0
    assert CANARY not in repr(storage)


def test_a_password_file_named_in_the_address(
    server: Server, tls: tuple[Any, Path, Path], passfile: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PGPASSFILE")
    open_storage(server.url(tls[0].port, query=f"?sslmode=require&passfile={passfile}")).close()


def test_a_service_file_and_libpqs_variables_stand_for_the_rest_of_the_address(
    server: Server,
    tls: tuple[Any, Path, Path],
    passfile: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lines = ["[fleet]", "host=localhost", f"port={tls[0].port}", f"user={server.user}", "sslmode=require"]
    (tmp_path / "services").write_text("\n".join([*lines, f"dbname={server.user}", ""]))
    monkeypatch.setenv("PGSERVICEFILE", str(tmp_path / "services"))
    open_storage("postgresql:///?service=fleet").close()
    monkeypatch.setenv("PGSERVICE", "fleet")
    open_storage("postgresql://").close()


def test_faults_of_tls_and_passwords_are_told_with_what_to_do(
    server: Server, tls: tuple[Any, Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    door, crt, other = tls
    monkeypatch.setenv("PGPASSFILE", str(tmp_path / "absent"))

    def told(url: str) -> str:
        with pytest.raises(StorageError) as caught:
            open_storage(url)
        assert "canary" not in str(caught.value)
        assert caught.value.__cause__ is None
        return str(caught.value)

    verify = f"?sslmode=verify-full&sslrootcert={other}"
    assert "is not of the authority" in told(server.url(door.port, password=CANARY, query=verify))
    right = f"?sslmode=verify-full&sslrootcert={crt}"
    assert "Use the host name" in told(server.url(door.port, password=CANARY, host="127.0.0.1", query=right))
    absent = f"?sslmode=verify-full&sslrootcert={tmp_path / 'absent.crt'}"
    assert "Name the authority's certificate" in told(server.url(door.port, password=CANARY, query=absent))
    assert "PGPASSFILE" in told(server.url(door.port, query="?sslmode=require"))
    assert "Check the password" in told(
        server.url(door.port, password="canary-of-another", query="?sslmode=require")
    )
    with front(server.socket, context=None) as plain:
        assert "Turn TLS on in the server" in told(
            server.url(plain.port, password=CANARY, query="?sslmode=require")
        )


def test_messages_lose_secrets_however_they_are_written() -> None:
    url = parse_address(f"postgresql://me:{CANARY}@db/x?sslpassword=canary-key")
    message = f"refused {CANARY} canary%7B%25p%40ss%2Fword canary-key"
    assert without_secrets(message, url) == "refused *** *** ***"


class CommandLines:
    """Every command line that is seen in the list of processes while the block runs."""

    def __init__(self) -> None:
        self.seen: set[str] = set()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> CommandLines:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._closing.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._closing.wait(0.2):
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    self.seen.add(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
                except OSError:
                    continue


def everything_in(url: URL) -> str:
    """Every row of every table of a database, as text."""
    engine = create_engine(url)
    with engine.connect() as connection:
        names = connection.execute(
            text("SELECT schemaname, tablename FROM pg_tables WHERE schemaname IN ('public', 'hms_tune')")
        ).all()
        rows = [
            str(row)
            for schema, table in names
            for row in connection.execute(text(f'SELECT t::text FROM "{schema}"."{table}" t'))
        ]
    engine.dispose()
    return "\n".join(rows)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="no /proc to see command lines in")
def test_secrets_a_canary_password_is_in_no_log_argv_attribute_tracking_run_or_traceback(
    server: Server,
    tls: tuple[Any, Path, Path],
    tmp_path: Path,
    competition_writer: Callable[..., Path],
    database_url: str,
) -> None:
    root = competition_writer(tmp_path / "data" / "hms", patients=4, test_recordings=1)
    study = tmp_path / "canary.yaml"
    study.write_text(STUDY)
    home = tmp_path / "home"
    url = server.url(tls[0].port, password=CANARY, query="?sslmode=require")
    printed = []

    def run(*arguments: str, storage: str, code: int) -> None:
        done = subprocess.run(
            [sys.executable, "-m", "hms_tune", *arguments],
            env=os.environ
            | {"HMS_TUNE_HOME": str(home), "HMS_TUNE_STORAGE": storage, "WANDB_MODE": "offline"},
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        assert done.returncode == code, done.stderr
        printed.append(done.stdout + done.stderr)

    with CommandLines() as lines:
        run("worker", "--study", str(study), "--data", str(root), storage=url, code=0)
    run("study", "show", "canary", storage=url.replace("canary{", "canary-wrong{"), code=1)

    worker = [line for line in lines.seen if "hms_tune" in line and "worker" in line]
    spawned = [line for line in lines.seen if "slot cpu" in line]
    assert worker
    assert spawned
    assert [line for line in lines.seen if "canary{" in line or "canary%" in line] == []

    files = [path for path in (*home.rglob("*"), *(tmp_path / "data").rglob("*")) if path.is_file()]
    assert any("wandb" in str(path) for path in files)
    rows = everything_in(parse_address(database_url).set(database=server.user))
    assert "canary" in rows  # the study's name: the rows were read
    for secret in (CANARY, "canary%7B", "p@ss/word", "p%40ss"):
        assert [text for text in printed if secret in text] == []
        assert [path for path in files if secret.encode() in path.read_bytes()] == []
        assert secret not in rows
