"""Whose tables are in which schema: ours in ``hms_tune``, Optuna's in the first of the search path.

The search path used to be the server's, which begins with the user's name: a user called hms_tune got
Optuna's tables, or some of them, into our schema.
"""

from __future__ import annotations

from sqlalchemy import Connection, text

from hms_tune.database.connection.connections import OPTUNAS_SCHEMA
from hms_tune.database.tables import SCHEMA
from hms_tune.errors import StorageError

_OPTUNAS = "version_info"
"""A table that Optuna makes, and we do not."""

_REVISION = "alembic_version"


def first_schema(connection: Connection) -> str:
    """The schema that the search path begins with, whether or not it exists and this user may enter it."""
    named = text("SELECT trim(BOTH '\" ' FROM split_part(current_setting('search_path'), ',', 1))")
    return str(connection.execute(named).scalar_one())


def has_optunas_tables(connection: Connection, schema: str) -> bool:
    """Whether Optuna has made its tables in a schema."""
    return _exists(connection, schema, _OPTUNAS)


def is_settled(connection: Connection) -> bool:
    """Whether Optuna's tables are there, on a search path that our schema is not on."""
    found = text(
        f"SELECT to_regclass('{_OPTUNAS}') IS NOT NULL AND to_regclass('{_REVISION}') IS NOT NULL"
        f" AND '{SCHEMA}' <> ALL (current_schemas(false))"
    )
    return bool(connection.execute(found).scalar_one())


def settle_schemas(connection: Connection, where: str) -> None:
    """Before tables are made: see that Optuna's and ours keep apart, and fix what can be.

    Raises
    ------
    StorageError
        If they cannot be kept apart, or Optuna's are where only the server's own search path leads.
    """
    path: list[str] = connection.execute(text("SELECT current_schemas(false)::text[]")).scalar_one()
    if not path:
        raise StorageError(
            "no schema of the search path exists",
            where=where,
            hint=f"Create one (CREATE SCHEMA {OPTUNAS_SCHEMA}), or name one that exists: "
            "?options=-csearch_path=SCHEMA",
        )
    if SCHEMA in path:
        raise StorageError(
            f"the schema {SCHEMA} is on the search path, and it is hms-tune's own",
            where=where,
            hint=f"Name another for Optuna's tables: ?options=-csearch_path={OPTUNAS_SCHEMA}",
        )
    if _exists(connection, SCHEMA, _OPTUNAS):
        raise _mixed(connection, where)
    if _exists(connection, path[0], _OPTUNAS):
        # A user called hms_tune, when there was no schema of that name yet.
        if _exists(connection, SCHEMA, _REVISION) and not _exists(connection, path[0], _REVISION):
            schema = connection.execute(text("SELECT quote_ident(:name)"), {"name": path[0]}).scalar_one()
            connection.execute(text(f"ALTER TABLE {SCHEMA}.{_REVISION} SET SCHEMA {schema}"))
        return
    _refuse_beside_others(connection, path[0], where)
    elsewhere = _by_the_servers_path(connection)
    if elsewhere is not None:
        raise StorageError(
            f"the studies are in the schema {elsewhere}, not in {path[0]}",
            where=where,
            hint=f"Say so in the URL: ?options=-csearch_path={elsewhere} "
            f"(or ?options=-csearch_path={path[0]} to begin with none)",
        )


def _refuse_beside_others(connection: Connection, schema: str, where: str) -> None:
    """Optuna's tables are not there, but some of their names are taken: by MLflow, for example."""
    from hms_tune.search.optuna_private import models

    ours = [*(table.name for table in models.BaseModel.metadata.sorted_tables), _REVISION]
    taken = text(
        "SELECT tablename FROM pg_tables WHERE schemaname = :schema AND tablename = ANY (:names) ORDER BY 1"
    )
    others = connection.execute(taken, {"schema": schema, "names": ours}).scalars().all()
    if others:
        raise StorageError(
            f"another program keeps its tables in the schema {schema} ({', '.join(others)}), and Optuna's "
            "have the same names; nothing was changed",
            where=where,
            hint="Give hms-tune a database of its own (CREATE DATABASE hms_tune), or a schema of its own in "
            "this one: CREATE SCHEMA optuna, then ?options=-csearch_path=optuna",
        )


def _mixed(connection: Connection, where: str) -> StorageError:
    """Optuna's tables in our schema: a study could be written only before ours came along."""
    empty = connection.execute(text(f"SELECT NOT EXISTS (SELECT FROM {SCHEMA}.studies)")).scalar_one()
    hint = (
        f"It has no study; remove it, and start again: DROP SCHEMA {SCHEMA} CASCADE"
        if empty
        else f"Give it another name, and say so in the URL: ALTER SCHEMA {SCHEMA} RENAME TO optuna, "
        "then ?options=-csearch_path=optuna"
    )
    return StorageError(
        f"Optuna's tables are in the schema {SCHEMA}, which is hms-tune's own", where=where, hint=hint
    )


def _exists(connection: Connection, schema: str, table: str) -> bool:
    known = text("SELECT EXISTS (SELECT FROM pg_tables WHERE schemaname = :schema AND tablename = :table)")
    return bool(connection.execute(known, {"schema": schema, "table": table}).scalar_one())


def _by_the_servers_path(connection: Connection) -> str | None:
    """The schema of Optuna's tables that a connection without our settings would find."""
    found = text(
        "SELECT nspname FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace"
        f" WHERE pg_class.oid = to_regclass('{_OPTUNAS}')"
    )
    with connection.begin_nested() as savepoint:
        connection.execute(text("SET LOCAL search_path TO DEFAULT"))
        schema: str | None = connection.execute(found).scalar_one_or_none()
        savepoint.rollback()  # the setting, too
    return schema
