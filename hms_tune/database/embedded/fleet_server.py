"""The embedded PostgreSQL as the server of a fleet: on an address, for one user with a password.

For clusters that offer no PostgreSQL: one job, or a machine that stays, serves the workers of all others.
"""

from __future__ import annotations

import re
import secrets
from contextlib import closing
from pathlib import Path

from sqlalchemy.engine import URL

from hms_tune.database.connection.connections import connector
from hms_tune.database.connection.url import parse_address
from hms_tune.database.embedded.cluster import FLEET, Listening, write_private
from hms_tune.database.embedded.server import listen, start_embedded
from hms_tune.errors import UsageError

_HOST = re.compile(r"[A-Za-z0-9][A-Za-z0-9.:_-]*")


def serve_fleet(folder: Path, host: str, port: int) -> str:
    """Start the server whose data lies in ``folder`` on an address; it stops with this process.

    The user's password is made at the first start and stays, so that workers outlive a restart.

    Parameters
    ----------
    host : a name or number of this machine by which the workers reach it

    Returns
    -------
    URL of the fleet's database, with the password

    Raises
    ------
    UsageError
        If ``host`` is no name or number of a machine.
    StorageError
        If other processes of this machine use the server, or it cannot start there.
    """
    if not _HOST.fullmatch(host):
        raise UsageError(f'"{host}" is no name or number of a machine', where="--host")
    own = parse_address(start_embedded(folder))
    listen(folder, Listening(host, port))
    password = _password(folder)
    with closing(connector(own)()) as connection:
        connection.autocommit = True  # a database is made outside transactions
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (FLEET,))
            verb = "ALTER" if cursor.fetchone() else "CREATE"
            cursor.execute(f"{verb} ROLE {FLEET} LOGIN PASSWORD %s", (password,))
            cursor.execute("SELECT 1 FROM pg_database WHERE datname = %s", (FLEET,))
            if not cursor.fetchone():
                cursor.execute(f"CREATE DATABASE {FLEET} OWNER {FLEET}")
    url = URL.create("postgresql", FLEET, password, host, port, FLEET)
    return url.render_as_string(hide_password=False)


def _password(folder: Path) -> str:
    file = folder / "fleet-password"
    if not file.exists():
        write_private(file, secrets.token_hex(32))
    return file.read_text()
