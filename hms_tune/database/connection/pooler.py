"""Behind a pooler that lends a server's connection for one transaction, as PgBouncer's transaction mode does.

What is set on such a connection stays with whoever gets it next, and the next transaction runs on another.
Settings are therefore set in each transaction, with its first statement, in the same round trip.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import psycopg2
from psycopg2.extensions import TRANSACTION_STATUS_IDLE, QuotedString
from psycopg2.extensions import cursor as Cursor

_KNOWN = "SELECT name FROM unnest(%s::text[]) AS name WHERE current_setting(name, true) IS NOT NULL"
"""An older server lacks some."""


def is_pooled(connection: psycopg2.extensions.connection) -> bool:
    """Whether another process answers than the one that the server named at the start."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        return bool(cursor.fetchone()[0] != connection.info.backend_pid)


def set_in_each_transaction(connection: psycopg2.extensions.connection, settings: Mapping[str, str]) -> None:
    """Let every transaction of a connection begin with these settings, as far as the server has them."""
    with connection.cursor() as cursor:
        cursor.execute(_KNOWN, (list(settings),))
        known = {name for (name,) in cursor.fetchall()}
    prefix = _statement({name: value for name, value in settings.items() if name in known})

    class PooledCursor(Cursor):  # type: ignore[misc]
        def execute(self, query: Any, vars: Any = None) -> None:
            if self.connection.info.transaction_status == TRANSACTION_STATUS_IDLE:
                query = prefix + (query.decode() if isinstance(query, bytes) else query)
            super().execute(query, vars)

    connection.cursor_factory = PooledCursor


def _statement(settings: Mapping[str, str]) -> str:
    # The defaults of a transaction are read before it begins.
    names = {"default_transaction_read_only": "transaction_read_only"}
    each = [
        f"set_config({_quoted(names.get(name, name))}, {_quoted(value)}, true)"
        for name, value in settings.items()
    ]
    return f"SELECT {', '.join(each)}; "


def _quoted(text: str) -> str:
    return str(QuotedString(text).getquoted().decode())
