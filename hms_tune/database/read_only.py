"""The database for those who only look, so that no fault of theirs can change a search.

Commands that read have transactions that are read-only, and make nothing: the right to SELECT is enough, and
a standby. The dashboard, which serves others, goes further.

Connections act as a role that may read the product's tables and Optuna's and nothing else, in transactions
that are read-only. Where the role cannot be made, for want of the right to create roles, the second alone has
to do.
"""

from __future__ import annotations

import logging

from psycopg2.errors import InsufficientPrivilege, ReadOnlySqlTransaction
from sqlalchemy import Connection, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import InternalError, ProgrammingError

from hms_tune.database import schema, tables
from hms_tune.database.connect import Storage, alone, assembled, errors_told, open_storage
from hms_tune.database.connection.connections import Connect, connector
from hms_tune.database.connection.url import parse_address, redacted
from hms_tune.database.locks import lock_setup
from hms_tune.database.rights import missing_grants
from hms_tune.database.search_path import is_settled, settle_schemas
from hms_tune.errors import EmptyDatabaseError, StorageError

_logger = logging.getLogger(__name__)

READER = "hms_tune_reader"
"""A role without login. A user may act as it, and no one can sign in as it."""


def open_to_read(url: URL | str) -> Storage:
    """Connect for a command that reads. Nothing is made or changed.

    Raises
    ------
    EmptyDatabaseError
        If no worker has made its tables yet.
    StorageError
        If the database cannot be reached or read, or its tables are not those of this version.
    """
    url = parse_address(url) if isinstance(url, str) else url
    connect = connector(url, default_transaction_read_only="on")
    where = redacted(url)
    with errors_told(url, connect, "read"):
        with alone(connect).connect() as connection:
            grants = missing_grants(connection, "read")
            if grants:
                raise StorageError(
                    "the database user may not read the studies", where=where, hint="; ".join(grants)
                )
            if not is_settled(connection):
                _explain_unsettled(connection, where)
        if _is_empty(connect, url):
            raise empty_database(where)
        return assembled(url, connect, to_read=True)


def empty_database(where: str) -> EmptyDatabaseError:
    """The error of whoever would read what no worker has made yet."""
    return EmptyDatabaseError(
        "hms-tune has no studies in this database yet",
        where=where,
        hint="The first worker makes its tables: hms-tune worker NAME",
    )


def _explain_unsettled(connection: Connection, where: str) -> None:
    """Say why there is nothing to read: no tables yet, or tables in the wrong place."""
    try:
        settle_schemas(connection, where)
    except InternalError as error:
        if not isinstance(error.orig, ReadOnlySqlTransaction):
            raise
        raise _needs_repair(where) from None
    raise empty_database(where)


def _needs_repair(where: str) -> StorageError:
    return StorageError(
        "the tables are those of an earlier hms-tune, and who only looks changes none",
        where=where,
        hint="Stop the workers of the earlier version and start one of this version: it brings the tables up "
        "to date",
    )


def open_read_only(url: URL | str) -> Storage:
    """Connect for the dashboard, as a role that may only read, where it can be made.

    An empty database gets its tables first.

    Raises
    ------
    StorageError
        If the database cannot be reached or read, or its tables are not those of this version.
    """
    url = parse_address(url) if isinstance(url, str) else url
    plain = connector(url)
    with errors_told(url, plain, "read"):
        if _is_empty(plain, url):
            open_storage(url).close()
        settings = {"default_transaction_read_only": "on"}
        if _reader_is_ready(plain):
            settings["role"] = READER
        else:
            _logger.warning(
                "The database user may not create the role %s: transactions are read-only, the role is the "
                "user's own (docs/fleet.md says how an administrator makes the role)",
                READER,
            )
        return assembled(url, connector(url, **settings), to_read=True)


def _is_empty(connect: Connect, url: URL) -> bool:
    """Whether the tables are to be made yet.

    Raises
    ------
    StorageError
        If they are there, and are not those of this program: who looks changes none.
    """
    engine = alone(connect)
    with engine.connect() as connection:
        if not is_settled(connection):
            return True  # opened for writing, they are made, fixed or explained
        if schema.is_current(connection, where=redacted(url)):
            return False
    with engine.connect() as connection:
        found = connection.execute(text("SELECT to_regclass('hms_tune.studies')")).scalar()
    if found is not None:
        raise _needs_repair(redacted(url))
    return True


def _reader_is_ready(connect: Connect) -> bool:
    """Make the role, if it is not there and may be made; whether this user can act as it."""
    engine = alone(connect)
    with engine.connect() as connection:
        ready = _may_act_as_reader(connection)
        if (ready and _reads_all(connection)) or not (ready or _may_make_roles(connection)):
            return ready
    try:
        with engine.begin() as connection:
            lock_setup(connection)  # two dashboards that start at once make it one after another
            _make_reader(connection)
    except (ProgrammingError, InternalError) as error:
        if not isinstance(
            error.orig, InsufficientPrivilege | ReadOnlySqlTransaction
        ):  # the latter: a standby
            raise
    with engine.connect() as connection:
        return _may_act_as_reader(connection)


def _make_reader(connection: Connection) -> None:
    from hms_tune.search.optuna_private import models

    known = connection.execute(
        text("SELECT 1 FROM pg_roles WHERE rolname = :name"), {"name": READER}
    ).scalar()
    if known is None:
        connection.execute(text(f"CREATE ROLE {READER} NOLOGIN"))
    if not _may_act_as_reader(connection):
        connection.execute(text(f"GRANT {READER} TO CURRENT_USER"))
    optunas = [table.name for table in models.BaseModel.metadata.sorted_tables]
    names = ", ".join([*optunas, "alembic_version"])
    schema = connection.execute(text("SELECT quote_ident(current_schema())")).scalar_one()
    connection.execute(text(f"GRANT USAGE ON SCHEMA {schema}, {tables.SCHEMA} TO {READER}"))
    connection.execute(text(f"GRANT SELECT ON {names} TO {READER}"))
    connection.execute(text(f"GRANT SELECT ON ALL TABLES IN SCHEMA {tables.SCHEMA} TO {READER}"))


def _reads_all(connection: Connection) -> bool:
    """Whether the role may read every table of ours, also those that a later version has added."""
    lacking = text(
        "SELECT EXISTS (SELECT FROM pg_class, pg_roles WHERE relnamespace = CAST(:schema AS regnamespace)"
        " AND relkind = 'r' AND rolname = :name"
        " AND NOT has_table_privilege(pg_roles.oid, pg_class.oid, 'SELECT'))"
    )
    found = connection.execute(lacking, {"schema": tables.SCHEMA, "name": READER})
    return not found.scalar_one()


def _may_make_roles(connection: Connection) -> bool:
    allowed = text("SELECT rolsuper OR rolcreaterole FROM pg_roles WHERE rolname = current_user")
    return bool(connection.execute(allowed).scalar_one())


def _may_act_as_reader(connection: Connection) -> bool:
    """Whether ``SET ROLE`` would be allowed, and would show the studies."""
    allowed = text(
        "SELECT pg_has_role(current_user, oid, 'MEMBER') AND has_table_privilege(oid, 'studies', 'SELECT')"
        " FROM pg_roles WHERE rolname = :name"
    )
    return bool(connection.execute(allowed, {"name": READER}).scalar())
