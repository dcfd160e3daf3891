"""Behind PgBouncer in transaction mode a search runs as it does without, and leaves no setting behind."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg2
import pytest
from postgres_front import front
from roles import Role, a_role
from slots import a_slot
from sqlalchemy import text
from stories import a_fold_end, a_fold_start, an_ending, an_epoch

from hms_tune.config.study_file import StudyFile
from hms_tune.database.connect import open_storage
from hms_tune.database.read_only import open_read_only
from hms_tune.studies.status import status
from hms_tune.trial_state import TrialState
from hms_tune.worker.open_study import join_search, open_search
from studies import ONE_TRIAL

pytestmark = pytest.mark.skipif(
    shutil.which("pgbouncer") is None, reason="PgBouncer is not installed (Debian's package pgbouncer)"
)

SERVER_CONNECTIONS = 6
"""Two for each of three slots; each client's transactions run on all of them."""


@pytest.fixture
def role(database_url: str) -> Iterator[Role]:
    """A user with the name of our schema, whose own settings are other than ours."""
    with a_role(database_url, "hms_tune", "secret") as made:
        made.ask("ALTER ROLE hms_tune SET timezone = 'Asia/Tokyo'")
        made.ask("ALTER ROLE hms_tune SET extra_float_digits = 0")
        yield made


@pytest.fixture
def url(role: Role, tmp_path: Path) -> Iterator[str]:
    """The role's database through PgBouncer."""
    with front(role.socket, context=None) as door, socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
        free.close()
        folder = tmp_path / "pgbouncer"
        folder.mkdir()
        (folder / "users.txt").write_text('"hms_tune" "secret"\n')
        (folder / "pgbouncer.ini").write_text(
            f"[databases]\nhms_tune = host=127.0.0.1 port={door.port}\n[pgbouncer]\n"
            f"listen_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = plain\n"
            f"auth_file = {folder}/users.txt\npool_mode = transaction\n"
            f"default_pool_size = {SERVER_CONNECTIONS}\n"
        )
        for path in (*folder.iterdir(), *list(folder.parents)[:3], folder):
            path.chmod(0o755)  # it does not run as root
        process = subprocess.Popen(
            ["pgbouncer", "-q", "-u", "nobody", str(folder / "pgbouncer.ini")], stderr=subprocess.PIPE
        )
        address = f"postgresql://hms_tune:secret@127.0.0.1:{port}/hms_tune"
        for _ in range(100):
            try:
                psycopg2.connect(address).close()
                break
            except psycopg2.OperationalError:
                assert process.poll() is None, process.stderr and process.stderr.read()
                time.sleep(0.1)
        yield address
        process.terminate()
        process.wait()


def settings_of(url: str) -> set[tuple[str, ...]]:
    """What other programs' sessions have behind the pooler, on each of the server's connections."""
    clients = [psycopg2.connect(url) for _ in range(SERVER_CONNECTIONS)]
    found = set()
    for client in clients:  # each keeps its server's connection until its transaction ends
        with client.cursor() as cursor:
            cursor.execute(
                "SELECT current_setting('search_path'), current_user::text, "
                "current_setting('idle_in_transaction_session_timeout'), "
                "(SELECT count(*) FROM pg_locks WHERE locktype = 'advisory')::text"
            )
            found.add(cursor.fetchone())
    for client in clients:
        client.close()
    return found


def test_a_search_behind_a_pooler_runs_and_leaves_no_setting_behind(url: str, tmp_path: Path) -> None:
    before = settings_of(url)
    study = StudyFile.parse(ONE_TRIAL.format(name="pooled").replace("trials: 1", "trials: 12"), "test")
    storages = [open_storage(url) for _ in range(3)]
    open_search(storages[0], study)

    def train(_config: object, _directory: Path) -> Iterator[object]:
        yield a_fold_start()
        yield an_epoch()
        yield a_fold_end()
        yield an_ending(0.123456789012345678)

    def run(number: int) -> int:
        storage = storages[number]
        search = join_search(storage, study)
        return a_slot(storage, search, train, tmp_path / f"store-{number}", worker=f"worker-{number}").run()

    with ThreadPoolExecutor() as pool:
        assert sum(pool.map(run, range(3))) == 12
    told = status(storages[0], "pooled")
    assert told.trials[TrialState.COMPLETE] == 12
    assert told.best is not None
    assert told.best.value == 0.123456789012345678
    with storages[0].transaction() as connection:
        show = "SELECT current_setting('search_path'), current_setting('timezone')"
        assert tuple(connection.execute(text(show)).one()) == ("public", "UTC")
    for storage in storages:
        storage.close()
    assert settings_of(url) == before


def test_whoever_only_looks_through_a_pooler_can_write_nothing_and_others_still_can(url: str) -> None:
    study = StudyFile.parse(ONE_TRIAL.format(name="looked-at"), "test")
    writer = open_storage(url)
    open_search(writer, study)
    reader = open_read_only(url)
    assert status(reader, "looked-at").trials[TrialState.COMPLETE] == 0
    with (
        pytest.raises(Exception, match=r"opened to read|permission denied"),
        reader.transaction() as it,
    ):
        it.execute(text("DELETE FROM hms_tune.studies"))
    open_search(writer, study)
    writer.optuna.set_study_user_attr(1, "note", "written")
    reader.close()
    writer.close()
