"""The address by which other programs read our studies: Optuna's own tools, pandas, a notebook."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import psycopg2
from sqlalchemy import Dialect
from sqlalchemy.dialects.postgresql.psycopg2 import PGDialect_psycopg2
from sqlalchemy.engine import URL

from hms_tune.database.connect import errors_told, resolve_address
from hms_tune.database.connection.connections import OPTUNAS_SCHEMA, connector
from hms_tune.database.connection.pooler import is_pooled
from hms_tune.database.connection.url import SECRET_OPTIONS
from hms_tune.database.embedded.server import signed_in_by_file
from hms_tune.database.tables import SCHEMA

_FINDS_OPTUNAS_TABLES = """
    SELECT source = 'client' OR (current_schemas(false))[1] = %s
       AND NOT (setting LIKE '%%"$user"%%' AND current_user = %s)
    FROM pg_settings WHERE name = 'search_path'
"""


def address_for_others(storage: str | None, *, home: Path, secrets: bool = True) -> str:
    """The database as any program with SQLAlchemy and psycopg2 can open it.

    Parameters
    ----------
    storage : address of the database; None: the embedded server under ``home``, which signs people in by a
        file of its user
    secrets : whether a password that stands in ``storage`` is told, or ``***`` in its place

    Raises
    ------
    UsageError
        If ``storage`` is no PostgreSQL URL.
    StorageError
        If the database cannot be reached.
    """
    url = resolve_address(storage, home=home)
    connect = connector(url)
    with errors_told(url, connect, "read"):
        if not _finds_optunas_tables(url):
            given = str(url.query.get("options", ""))
            path = f"-csearch_path={OPTUNAS_SCHEMA}"
            url = url.update_query_dict({"options": f"{given} {path}".strip()})
    if not storage:
        url = signed_in_by_file(url, home / "postgres")
    if not secrets:
        hidden = {name: "***" for name in url.query if name in SECRET_OPTIONS}
        url = url.update_query_dict(hidden)
    start, mark, query = url.render_as_string(hide_password=not secrets).partition("?")
    return start + mark + query.replace("+", "%20")  # a space, as libpq reads it too


def _finds_optunas_tables(url: URL) -> bool:
    """Whether a program that says nothing of a search path meets Optuna's tables before ours.

    PostgreSQL looks first where the user's name leads: a user ``hms_tune`` finds the schema of that name.
    """
    arguments, keywords = cast("Dialect", PGDialect_psycopg2()).create_connect_args(url)  # type: ignore[no-untyped-call]
    connection = psycopg2.connect(*arguments, **keywords)
    try:
        if is_pooled(connection):
            return True  # a pooler takes no search path; docs/fleet.md says what to do
        with connection.cursor() as cursor:
            cursor.execute(_FINDS_OPTUNAS_TABLES, (OPTUNAS_SCHEMA, SCHEMA))
            return bool(cursor.fetchone()[0])
    finally:
        connection.close()
