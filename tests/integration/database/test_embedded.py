"""The embedded server: closed to other users, shared by one user's processes, startable after any kill."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psycopg2
import pytest
from small_memory import needs_mounts, with_dev_shm

from hms_tune.database.connection.url import parse_address, redacted
from hms_tune.database.embedded import programs
from hms_tune.database.embedded import server as embedded
from hms_tune.database.embedded.cluster import Cluster
from hms_tune.database.embedded.programs import Account, own_account
from hms_tune.database.embedded.server import start_embedded
from hms_tune.errors import StorageError
from hms_tune.machine.private_folder import private_folder

AS_USER = Path(__file__).parents[2] / "as_user.py"
USER = (
    "import sys; from pathlib import Path; from hms_tune.database.embedded.server import start_embedded; "
    "print(start_embedded(Path(sys.argv[1])), flush=True); sys.stdin.read()"
)

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="becomes other users, which root alone can")


@pytest.fixture(scope="module", autouse=True)
def _initdb_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What ``initdb`` makes is made once and then copied, in this process; others run it."""
    made, run = tmp_path_factory.mktemp("initdb") / "data", Cluster._run

    def copied(self: Cluster, program: str, *arguments: str, **named: str) -> None:
        if program != "initdb" or not made.exists():
            run(self, program, *arguments, **named)
        if program == "initdb":
            there = (self.folder, made) if not made.exists() else (f"{made}/.", self.folder)
            subprocess.run(("cp", "-a", *there), check=True)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Cluster, "_run", copied)
        yield


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A temporary folder that all users share, with nothing in it."""
    folder = Path(tempfile.mkdtemp(prefix="hms-tune-", dir="/tmp"))
    folder.chmod(0o1777)
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def place(temporary: Path) -> Iterator[Callable[..., Path]]:
    """Makes folders for servers, closed to everyone but a user; stops the servers that are left."""
    made: list[Path] = []

    def make(name: str = "home", owner: Account | None = None) -> Path:
        home = temporary / name
        home.mkdir(mode=0o700)
        if owner is not None:
            os.chown(home, owner.uid, owner.gid)
        made.append(home / "postgres")
        return home / "postgres"

    yield make
    for folder in made:
        for data in (folder, folder / "data"):
            Cluster(data).stop()


@dataclass(frozen=True)
class Other:
    """A user of this machine who is not root."""

    account: Account

    def command(self, verb: str, argument: Path | str) -> list[str]:
        ids = (str(self.account.uid), str(self.account.gid))
        return [sys.executable, str(AS_USER), *ids, verb, str(argument)]

    def connect(self, host: Path | str) -> str:
        done = subprocess.run(self.command("connect", host), capture_output=True, text=True, check=True)
        return done.stdout


@pytest.fixture
def others() -> tuple[Other, Other]:
    """Two users."""
    found = [Other(Account(each.pw_uid, each.pw_gid)) for each in pwd.getpwall() if 0 < each.pw_uid < 100]
    if len(found) < 2:
        pytest.skip("this machine has no two users besides root")
    return found[0], found[1]


@contextmanager
def process(*command: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A process that uses a server until the block ends, and what it said first."""
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as started:
        assert started.stdout is not None
        yield started, started.stdout.readline().strip()
        started.communicate()


def user(folder: Path) -> tuple[str, ...]:
    return (sys.executable, "-c", USER, str(folder))


def host_of(url: str) -> str:
    return str(parse_address(url).query["host"])


def answer(url: str, statement: str) -> object:
    """One value, or None where a statement has none."""
    connection = psycopg2.connect(url)
    connection.autocommit = True
    try:
        with connection.cursor() as cursor:
            cursor.execute(statement)
            return None if cursor.description is None else cursor.fetchone()[0]
    finally:
        connection.close()


def refusal(url: str, *, password: str) -> str:
    """What the server has against a password."""
    with pytest.raises(psycopg2.OperationalError) as refused:
        psycopg2.connect(host=host_of(url), user="postgres", dbname="postgres", password=password)
    known = ("no password supplied", "password authentication failed")
    return next(each for each in known if each in str(refused.value))


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def postmaster(data: Path) -> int:
    return int((data / "postmaster.pid").read_text().split()[0])


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    while not gone(pid):
        time.sleep(0.01)


def listens(host: str) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex(f"{host}/.s.PGSQL.5432") == 0


def older_server(folder: Path) -> Cluster:
    """What an earlier version left: the data directory is the folder, all who reach it are let in."""
    made = Cluster.create(folder)
    (folder / "pg_hba.conf").write_text("local all all trust\n")
    return made


LONG = "x" * 100


@as_root
@pytest.mark.parametrize("name", ["home", LONG], ids=["short home", "long home"])
def test_another_user_of_the_machine_gets_no_connection(
    place: Callable[..., Path], others: tuple[Other, Other], temporary: Path, name: str
) -> None:
    owner, stranger = others
    folder = place(name, owner.account)
    with process(*owner.command("start", folder)) as (_, url):
        host = host_of(url)
        assert owner.connect(host).startswith("refused: connection to server on socket")
        assert "no password supplied" in owner.connect(host)
        assert "Permission denied" in stranger.connect(host)
        assert "no password supplied" in Other(Account(0, 0)).connect(host)  # whom modes do not stop
        reachable = [path for path in temporary.iterdir() if mode(path) & 0o077]
        assert reachable == []


def test_nobody_signs_in_without_the_password_and_nothing_listens_on_tcp(place: Callable[..., Path]) -> None:
    url = start_embedded(place())
    assert refusal(url, password="wrong") == "password authentication failed"
    assert refusal(url, password="") == "no password supplied"
    assert answer(url, "SHOW listen_addresses") == ""


def test_a_long_home_is_reached_through_a_link_in_a_closed_folder(
    place: Callable[..., Path], temporary: Path
) -> None:
    folder = place(LONG)
    url = start_embedded(folder)
    link = Path(host_of(url))
    assert link.parent.parent == temporary
    assert (mode(link.parent), link.readlink()) == (0o700, folder / "data")
    assert answer(url, "SELECT 1") == 1
    assert start_embedded(folder) == url


@pytest.mark.parametrize("name", ["with, comma", "a b&c%20+d:e#f?"])
def test_a_home_may_have_any_name(place: Callable[..., Path], name: str) -> None:
    assert answer(start_embedded(place(name)), "SELECT 1") == 1


@as_root
def test_a_link_that_another_user_could_turn_elsewhere_is_not_followed(
    place: Callable[..., Path], others: tuple[Other, Other]
) -> None:
    folder = place(LONG)
    first = Path(host_of(start_embedded(folder)))
    os.chown(first.parent, others[1].account.uid, others[1].account.gid)
    second = Path(host_of(start_embedded(folder)))
    assert second.parent != first.parent
    shutil.rmtree(second.parent)  # as a cleaner of temporary folders
    assert answer(start_embedded(folder), "SELECT 1") == 1


def test_everything_of_the_server_is_closed_to_others(place: Callable[..., Path]) -> None:
    folder = place()
    mask = os.umask(0)
    try:
        start_embedded(folder)
    finally:
        os.umask(mask)
    found = {path.name: mode(path) for path in (folder, *folder.iterdir())}
    assert found == {"postgres": 0o700, "data": 0o700, "password": 0o600, "users": 0o600}
    assert [path for path in (folder / "data").rglob("*") if mode(path) & 0o077] == []


def test_missing_parents_are_made_for_this_user_alone_and_others_stay_as_they_are(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    private_folder(tmp_path / "share" / "hms-tune")
    assert [mode(path) for path in (tmp_path, tmp_path / "share", tmp_path / "share" / "hms-tune")] == [
        0o755,
        0o700,
        0o700,
    ]


@as_root
def test_run_by_root_no_parent_changes_its_mode(place: Callable[..., Path], temporary: Path) -> None:
    folder = place() / "deep" / "postgres"
    private_folder(folder.parent)
    before = [mode(parent) for parent in folder.parents]
    try:
        url = start_embedded(folder)
        assert before[:4] == [0o700, 0o700, 0o700, 0o1777]
        assert [mode(parent) for parent in folder.parents] == before
        assert answer(url, "SELECT 1") == 1
        assert Account.of(folder / "data") == own_account()
    finally:
        Cluster(folder / "data").stop()


@as_root
def test_two_users_each_start_a_server(place: Callable[..., Path], others: tuple[Other, Other]) -> None:
    folders = [place(f"home-{each.account.uid}", each.account) for each in others]
    with ExitStack() as stack:
        urls = [
            stack.enter_context(process(*each.command("start", folder)))[1]
            for each, folder in zip(others, folders, strict=True)
        ]
        assert [answer(url, "SELECT 1") for url in urls] == [1, 1]
        with process(*others[1].command("start", folders[0])) as (_, said):
            assert "Permission denied" in said
            assert "Set HMS_TUNE_HOME to a folder of your own" in said


@as_root
def test_a_folder_of_another_user_is_refused(place: Callable[..., Path], others: tuple[Other, Other]) -> None:
    folder = place()
    folder.mkdir()
    os.chown(folder, others[0].account.uid, others[0].account.gid)
    with pytest.raises(StorageError, match="belongs to another user"):
        start_embedded(folder)
    assert list(folder.iterdir()) == []


def test_processes_that_start_at_once_share_one_server_and_the_last_stops_it(
    place: Callable[..., Path],
) -> None:
    folder = place()
    with ExitStack() as stack:
        started = [
            stack.enter_context(
                subprocess.Popen(user(folder), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            )
            for _ in range(6)
        ]
        urls = {each.stdout.readline().strip() for each in started if each.stdout is not None}
        assert len(urls) == 1
        url = urls.pop()
        server = postmaster(folder / "data")
        started[0].kill()
        for each in started[:-1]:
            each.communicate()
        assert answer(url, "SELECT 1") == 1
        assert postmaster(folder / "data") == server
        started[-1].communicate()
    assert not listens(host_of(url))
    assert gone(server)


def test_whatever_is_killed_the_next_process_finds_the_data(place: Callable[..., Path]) -> None:
    folder = place(LONG)
    with process(*user(folder)) as (first, url):
        answer(url, "CREATE TABLE kept AS SELECT 17 AS x")
        kill(first.pid)
    server = postmaster(folder / "data")
    assert not gone(server)
    with process(*user(folder)) as (_, again):
        assert again == url
        assert postmaster(folder / "data") == server  # the one that was left is joined
        kill(server)
        with process(*user(folder)) as (_, third):
            assert third == url
            assert answer(url, "SELECT x FROM kept") == 17
            assert postmaster(folder / "data") != server
        assert listens(host_of(url))
    assert not (folder / "data" / "postmaster.pid").exists()


def test_a_dead_servers_number_that_another_process_has_stops_no_start(place: Callable[..., Path]) -> None:
    folder = place()
    with process(*user(folder)) as (_, url):
        kill(postmaster(folder / "data"))
        left = folder / "data" / "postmaster.pid"
        with subprocess.Popen(("sleep", "100"), user=Account.of(left).uid) as innocent:
            left.write_text("\n".join((str(innocent.pid), *left.read_text().split("\n")[1:])))
            assert answer(start_embedded(folder), "SELECT 1") == 1
            assert innocent.poll() is None
            innocent.kill()
        assert start_embedded(folder) == url


def test_a_data_directory_that_was_not_finished_is_made_anew(place: Callable[..., Path]) -> None:
    folder = place()
    left = folder / ".data.unfinished-killed"
    left.mkdir(parents=True)
    (left / "PG_VERSION").write_text("18\n")
    assert answer(start_embedded(folder), "SELECT 1") == 1
    assert not left.exists()


def test_a_password_that_was_lost_is_set_anew_when_nobody_uses_the_server(place: Callable[..., Path]) -> None:
    folder = place()
    with process(*user(folder)) as (_, first):
        answer(first, "CREATE TABLE kept AS SELECT 17 AS x")
        (folder / "password").unlink()
        with pytest.raises(StorageError, match="the password of the embedded PostgreSQL is gone"):
            start_embedded(folder)
        os.close(embedded._users.pop(folder))
    url = start_embedded(folder)
    assert url != first
    assert answer(url, "SELECT x FROM kept") == 17


@pytest.mark.parametrize("left_running", [False, True])
def test_the_server_of_an_older_version_is_closed_when_it_is_next_started(
    place: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, left_running: bool
) -> None:
    monkeypatch.setattr(embedded, "_OLDER_ACCOUNT", programs._ACCOUNT)
    folder = place()
    older = older_server(folder)
    if left_running:
        older.start(folder)
        opened = f"postgresql://postgres:@/postgres?host={folder}"
        answer(opened, "CREATE TABLE kept AS SELECT 17 AS x")
        (folder / ".handle_pids.json").write_text("[999999999]")
    url = start_embedded(folder)
    assert (folder / "pg_hba.conf").read_text() == "local all all scram-sha-256\n"
    assert refusal(url, password="") == "no password supplied"
    assert answer(url, "SELECT x FROM kept" if left_running else "SELECT 17") == 17


def test_the_server_of_an_older_version_is_not_taken_from_its_processes(
    place: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "_OLDER_ACCOUNT", programs._ACCOUNT)
    folder = place()
    older = older_server(folder)
    older.start(folder)
    (folder / ".handle_pids.json").write_text(f"[{os.getppid()}]")
    with pytest.raises(StorageError, match=rf"which lets others in \(processes {os.getppid()}\)"):
        start_embedded(folder)
    assert older.runs


@as_root
def test_a_user_without_a_name_runs_a_server_that_was_made_and_is_told_where_none_can_be(
    place: Callable[..., Path],
) -> None:
    nameless = Other(Account(4_242_424, 4_242_424))
    folder = place("made")
    with process(*user(folder)):
        pass
    for path in (folder.parent, *folder.parent.rglob("*")):
        os.chown(path, 4_242_424, 4_242_424)
    with process(*nameless.command("start", folder)) as (_, url):
        assert answer(url, "SELECT 1") == 1
    with process(*nameless.command("start", place("new", nameless.account))) as (_, said):
        assert "could not look up effective user ID 4242424" in said
        assert "Give this user a line in /etc/passwd, or name a server with --storage" in said


@as_root
def test_programs_in_a_closed_environment_are_copied_for_the_user_that_runs_them(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platformdirs.site_cache_dir", lambda *_, **__: str(temporary / "cache"))
    monkeypatch.setattr(programs, "_runs_in", lambda *_: False)
    version = programs.newest_version()
    folder = programs.programs.__wrapped__(version)
    assert folder.is_relative_to(temporary / "cache")
    done = programs.run_as(own_account(), (str(folder / "postgres"), "--version"), folder=Path("/"))
    assert done.stdout.startswith(f"postgres (PostgreSQL) {version}")
    copied = [path for path in folder.parents if path.is_relative_to(temporary / "cache")]
    assert {mode(path) for path in copied} == {0o755}
    assert programs.programs.__wrapped__(version) == folder
    assert len(list((temporary / "cache").iterdir())) == 1


def command_lines() -> Iterator[bytes]:
    """Of the processes there are; some end meanwhile."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            yield path.read_bytes()


def test_the_password_is_in_no_command_line_log_or_printed_address(place: Callable[..., Path]) -> None:
    folder = place()
    seen: list[bytes] = []
    with subprocess.Popen(user(folder), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as started:
        while not (folder / "data" / "postmaster.pid").exists():
            seen += command_lines()
        assert started.stdout is not None
        url = parse_address(started.stdout.readline())
        seen += command_lines()
        password = str(url.password)
        assert len(password) == 64
        assert [line for line in seen if password.encode() in line] == []
        assert any(str(folder).encode() in line for line in seen)
        assert password not in (folder / "data" / "log").read_text()
        assert redacted(url) == f"postgresql://postgres:***@{folder / 'data'}/postgres"
        started.communicate()


def test_what_the_environment_says_of_another_server_is_not_for_this_one(
    place: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {
        "PGSERVICE": "absent",
        "PGHOSTADDR": "192.0.2.1",
        "PGCHANNELBINDING": "require",
    }.items():
        monkeypatch.setenv(name, value)
    assert answer(start_embedded(place()), "SELECT 1") == 1


PARALLEL = """
import sys
from pathlib import Path
import psycopg2
from hms_tune.database.embedded.server import start_embedded
with psycopg2.connect(start_embedded(Path(sys.argv[1]))) as connection, connection.cursor() as cursor:
    for name in ("parallel_setup_cost", "parallel_tuple_cost", "min_parallel_table_scan_size"):
        cursor.execute(f"SET {name} = 0")
    cursor.execute("CREATE TABLE many AS SELECT generate_series(1, 300000) AS number; ANALYZE many")
    cursor.execute("EXPLAIN ANALYZE SELECT number % 1000, count(*) FROM many GROUP BY 1")
    print("\\n".join(line for line, in cursor))
"""


@needs_mounts
@pytest.mark.parametrize("size", [pytest.param("1m", marks=pytest.mark.slow), "4k"])
def test_a_server_needs_no_shared_memory_of_the_machine(place: Callable[..., Path], size: str) -> None:
    folder = place()
    command = with_dev_shm(size, [sys.executable, "-c", PARALLEL, str(folder)])
    for _ in ("made", "started again"):
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        assert ended.returncode == 0, ended.stderr
        assert "Workers Launched: 2" in ended.stdout
        command[-2] = command[-2].replace("CREATE TABLE", "DROP TABLE many; CREATE TABLE", 1)


@needs_mounts
def test_data_of_an_older_version_is_served_without_shared_memory_of_the_machine(
    place: Callable[..., Path],
) -> None:
    folder = place()
    user_of = [sys.executable, "-c", PARALLEL, str(folder)]
    subprocess.run(user_of, capture_output=True, check=True)
    conf = folder / "data" / "postgresql.conf"
    conf.write_text(conf.read_text().replace("= mmap", "= posix"))
    (folder / "password").unlink()  # so that it is set again, by a session without a server
    user_of[-2] = user_of[-2].replace("CREATE TABLE", "DROP TABLE many; CREATE TABLE", 1)
    ended = subprocess.run(with_dev_shm("4k", user_of), capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
