"""The PostgreSQL that comes with the package, for one machine without a database server.

Every process of a user that names the same folder shares one server; the last to leave stops it. The folder
is closed to others, and holds the data, the password, and both locks: ``lock`` while the server is started or
stopped, ``users`` for as long as a process uses it (a killed process lets go of it).
"""

from __future__ import annotations

import atexit
import fcntl
import json
import logging
import os
import pwd
import secrets
import shutil
import stat
import tempfile
import time
from pathlib import Path

from sqlalchemy.engine import URL

from hms_tune.data.files.lock import exclusive
from hms_tune.database.embedded.cluster import (
    DATABASE,
    PORT,
    SOCKET,
    SUPERUSER,
    Cluster,
    Listening,
    write_private,
)
from hms_tune.errors import HmsTuneError, StorageError
from hms_tune.machine.private_folder import private_folder

_logger = logging.getLogger(__name__)

_SOCKET_BYTES = 103
"""Longest path of a Unix socket on macOS; Linux allows four more."""

_OLDER = ".handle_pids.json"
"""Where an older version, whose server let everyone in, listed the processes that used it."""

_OLDER_ACCOUNT = "pgserver"
"""Who ran that server for root."""

_ANYWHERE = "*:*:*:*:"
"""What stands before the password in its file, which libpq reads too: any host, port, database and user."""

_LOOK_EVERY_S = 5.0
"""How often :func:`keep_up` looks whether the server runs."""

_users: dict[Path, int] = {}
"""The ``users`` lock of each folder whose server this process uses."""


def start_embedded(folder: Path) -> str:
    """Start the server whose data lies in ``folder``, or join it, until this process exits.

    Returns
    -------
    URL of its default database, with the password

    Raises
    ------
    StorageError
        If the server cannot start there.
    """
    folder = folder.resolve()
    # What libpq would read of another server (PGSERVICE, PGHOSTADDR, PGOPTIONS) is not for this one.
    for name in [name for name in os.environ if name.startswith("PG")]:
        del os.environ[name]
    try:
        _enter(folder)
        with exclusive(folder / "lock"):
            alone = _join(folder)
            cluster = _cluster(folder)
            if not cluster.exists:
                cluster = Cluster.create(cluster.folder)
            password = _password(folder, cluster, alone=alone)
            host = _host(folder, cluster)
            cluster.start(host)
    except OSError as error:
        raise StorageError(
            f"the embedded PostgreSQL did not start: {error}",
            where=folder,
            hint="Set HMS_TUNE_HOME to a folder of your own, or name a server with --storage",
        ) from error
    url = URL.create(
        "postgresql",
        username=SUPERUSER,
        password=password,
        database=DATABASE,
        query={"host": str(host), "port": str(PORT)},
    )
    return url.render_as_string(hide_password=False).replace("+", "%20")  # a space, as libpq reads it too


def signed_in_by_file(url: URL, folder: Path) -> URL:
    """The address of the server in ``folder`` with the file of its password in place of the password.

    It is no secret, and serves whoever may read the file.
    """
    query = {**url.query, "passfile": str(folder.resolve() / "password")}
    return URL.create(url.drivername, username=url.username, database=url.database, query=query)


def keep_up(folder: Path) -> None:
    """Keep the server up until this process is stopped; one that died is started again.

    Raises
    ------
    StorageError
        If it does not start, or its folder is gone.
    """
    while True:
        time.sleep(_LOOK_EVERY_S)
        if not folder.exists():
            raise StorageError("the folder of the embedded PostgreSQL was removed", where=folder)
        start_embedded(folder)


def stops_with_us(folder: Path) -> bool:
    """Whether no other process uses the server, so that it ends with this one."""
    return _alone(_users[folder.resolve()])


def _enter(folder: Path) -> None:
    """Make the folder of the server, or see that it is one of ours and closed."""
    private_folder(folder)
    found = folder.stat()
    if found.st_uid != os.geteuid() and not _made_for_root(found.st_uid):
        raise PermissionError("the folder belongs to another user")
    if stat.S_IMODE(found.st_mode) & 0o077:
        folder.chmod(0o700)


def _made_for_root(uid: int) -> bool:
    """Whether an older version, run by root, gave a folder to this user."""
    try:
        return os.geteuid() == 0 and pwd.getpwuid(uid).pw_name == _OLDER_ACCOUNT
    except KeyError:
        return False


def _cluster(folder: Path) -> Cluster:
    """The data directory; an older version's is the folder itself."""
    older = Cluster(folder)
    return older if older.exists else Cluster(folder / "data")


def _join(folder: Path) -> bool:
    """Count this process among the users of the server until it exits.

    Returns
    -------
    bool
        Whether it is the only one
    """
    if folder not in _users:
        file = folder / "users"
        if not file.exists():
            write_private(file, "")
        _users[folder] = os.open(file, os.O_RDWR | os.O_CLOEXEC)
        atexit.register(_leave, folder, os.getpid())
    return _alone(_users[folder])


def _alone(users: int) -> bool:
    """Whether no other process holds the lock that this one then holds with the others."""
    try:
        fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    else:
        return True
    finally:
        fcntl.flock(users, fcntl.LOCK_SH)


def _leave(folder: Path, process: int) -> None:
    """Leave the server to the other processes that use it; the last stops it."""
    if os.getpid() != process or not folder.exists():  # a fork, or the folder was removed
        return
    try:
        with exclusive(folder / "lock"):
            users = _users.pop(folder)
            if _alone(users):
                _cluster(folder).stop()
                _remove_link(folder)
            os.close(users)
    except (OSError, HmsTuneError) as error:
        _logger.warning("the embedded PostgreSQL was not stopped: %s", error)


def _password(folder: Path, cluster: Cluster, *, alone: bool) -> str:
    """The server's password; where there is none yet, one is set, and the server asks for it from then on."""
    file = folder / "password"
    written = file.read_text().strip() if file.exists() else ""
    password = written.removeprefix(_ANYWHERE)
    if password and cluster.asks_for_password:
        if password == written:  # as an older version wrote it
            write_private(file, f"{_ANYWHERE}{password}\n")
        return password
    if cluster.runs:
        if not alone:
            raise StorageError(
                "the password of the embedded PostgreSQL is gone",
                where=file,
                hint="End all processes of hms-tune on this machine; the next one sets another",
            )
        _refuse_beside_older(folder)
        cluster.stop()
    (folder / _OLDER).unlink(missing_ok=True)
    password = secrets.token_hex(32)
    write_private(file, f"{_ANYWHERE}{password}\n")
    cluster.set_password(password)
    return password


def _refuse_beside_older(folder: Path) -> None:
    """An older version's server is started again only when no process of that version uses it."""
    import psutil

    file = folder / _OLDER
    try:
        living = [pid for pid in json.loads(file.read_text()) if psutil.pid_exists(pid)]
    except (FileNotFoundError, ValueError):  # a kill in the middle of a write
        return
    if living:
        pids = ", ".join(map(str, living))
        raise StorageError(
            f"an older hms-tune uses this server, which lets others in (processes {pids})",
            where=folder,
            hint=f"End them, or remove {file} if they are something else; then start again",
        )


def _host(folder: Path, cluster: Cluster) -> Path:
    """The data directory as clients name it.

    A path that is too long for a socket, or holds libpq's separator of hosts, is reached through a link with
    a short name, in a folder that is ours alone. The socket stays in the data directory, so a link that a
    cleaner of temporary folders removed is simply made anew.
    """
    data = str(cluster.folder)
    if len(os.fsencode(f"{data}/{SOCKET}")) <= _SOCKET_BYTES and "," not in data:
        return cluster.folder
    noted = folder / "link"
    link = Path(noted.read_text()) if noted.exists() else None
    if link is None or not _is_ours(link, cluster):
        link = Path(tempfile.mkdtemp(prefix="hms-tune-", dir=_short_folder())) / "s"
        link.symlink_to(cluster.folder)
        write_private(noted, str(link))
    return link


def _short_folder() -> str:
    own = tempfile.gettempdir()
    return own if len(os.fsencode(own)) < _SOCKET_BYTES // 2 and "," not in own else "/tmp"


def _is_ours(link: Path, cluster: Cluster) -> bool:
    """Whether a link leads to the data directory and nobody else can turn it elsewhere."""
    try:
        parent = link.parent.lstat()
        closed = stat.S_ISDIR(parent.st_mode) and not stat.S_IMODE(parent.st_mode) & 0o077
        return closed and parent.st_uid == os.geteuid() and link.readlink() == cluster.folder
    except OSError:
        return False


def _remove_link(folder: Path) -> None:
    noted = folder / "link"
    if noted.exists():
        shutil.rmtree(Path(noted.read_text()).parent, ignore_errors=True)
        noted.unlink()


def listen(folder: Path, listening: Listening) -> None:
    """Start the server that this process has joined anew, so that it listens on an address, too.

    Raises
    ------
    StorageError
        If other processes use it, or it cannot listen there.
    """
    folder = folder.resolve()
    with exclusive(folder / "lock"):
        if not _alone(_users[folder]):
            raise StorageError(
                "other processes use the embedded PostgreSQL, which has to start anew to listen",
                where=folder,
                hint="End them first, or set HMS_TUNE_HOME to another folder",
            )
        cluster = _cluster(folder)
        cluster.stop()
        cluster.admit_fleet()
        cluster.start(_host(folder, cluster), listening)


def runs(folder: Path) -> bool:
    """Whether the server of a folder runs."""
    return _cluster(folder.resolve()).runs
