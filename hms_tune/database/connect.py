"""The one PostgreSQL behind a search: opened, its tables made, its clock and its connections in order."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import optuna
import psycopg2
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from psycopg2.errorcodes import INSUFFICIENT_PRIVILEGE
from sqlalchemy import Connection, Engine, NullPool, create_engine, event, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError, DisconnectionError

from hms_tune.database import schema
from hms_tune.database.connection.connections import Connect, connector
from hms_tune.database.connection.refusals import clause_of, hint_of
from hms_tune.database.connection.retry import Caller, Patience, passes, through_outages
from hms_tune.database.connection.sqlstates import refuse_writing, renew_connections, state_of
from hms_tune.database.connection.url import DRIVER, parse_address, redacted
from hms_tune.database.embedded.server import start_embedded
from hms_tune.database.locks import lock_setup
from hms_tune.database.optuna_storage import PatientStorage
from hms_tune.database.rights import Use, missing_grants
from hms_tune.database.search_path import is_settled, settle_schemas
from hms_tune.errors import StorageAwayError, StorageError
from hms_tune.search.optuna_private import DATABASE_LOGGER

T = TypeVar("T")

SLOT_CONNECTIONS = 2
"""Connections of a slot: one thread holds two at times, and no thread waits for a lock with the last one."""

MOST_CONNECTIONS = 8
"""The same for every other process. It keeps as many as a slot has, and takes the rest for moments."""

OLDEST_SERVER = 13
"""Major version of the oldest PostgreSQL on which the tests of the database are run."""

_RESTED_S = 5.0
"""A connection that was used this recently is taken to live, s."""

Transaction: TypeAlias = Connection
"""What queries run in, made by :meth:`Storage.transaction`."""


@dataclass(frozen=True, slots=True)
class Server:
    """A PostgreSQL server. ``host`` is a name, or a socket's path; ``encrypted`` whether over TLS."""

    version: str
    host: str
    encrypted: bool

    @classmethod
    def of(cls, connection: Connection) -> Server:
        """The server at the other end."""
        version = connection.execute(text("SHOW server_version")).scalar_one()
        driver: Any = connection.connection.dbapi_connection
        return cls(str(version).split()[0], str(driver.info.host), bool(driver.info.ssl_in_use))


@dataclass(frozen=True, slots=True)
class Storage:
    """An open database.

    ``optuna`` is the storage Optuna works on, ``engine`` its pool of connections, shared with our own tables;
    ``address`` the URL without its password.
    """

    engine: Engine
    optuna: PatientStorage
    address: str

    @property
    def patience(self) -> Patience:
        """How long the database may be away before whoever uses it gives up."""
        return self.optuna.patience

    def through_outages(self, work: Callable[[], T]) -> T:
        """Run ``work``, an idempotent unit, again until the database is there.

        Raises
        ------
        StorageAwayError
            If it stayed away for too long.
        """
        return through_outages(work, patience=self.patience)

    def server(self) -> Server:
        """The server that answers, and how it is reached."""
        with self.engine.connect() as connection:
            return Server.of(connection)

    def connection(self) -> AbstractContextManager[Connection]:
        """A connection for the whole block, whose transactions are the caller's."""
        return self.engine.connect()

    def statements(self) -> AbstractContextManager[Connection]:
        """A connection on which each statement is a transaction: nothing stays locked between two of them."""
        return self.optuna.statements()

    def transaction(self) -> AbstractContextManager[Connection]:
        """A transaction. As every one here, the server undoes it if this process falls asleep in it."""
        return self.engine.begin()

    @contextmanager
    def setup_lock(self) -> Iterator[None]:
        """Makes processes that start at once create what they share one after another."""
        with self.transaction() as connection:
            lock_setup(connection)
            yield

    def close(self) -> None:
        """Give all connections back."""
        self.optuna.remove_session()
        self.engine.dispose()


def resolve_address(storage: str | None, *, home: Path) -> URL:
    """The database to use: the one named, else the embedded server under ``home`` (started if need be).

    Raises
    ------
    UsageError
        If ``storage`` is no PostgreSQL URL.
    StorageError
        If the embedded server does not start.
    """
    if storage:
        return parse_address(storage)
    return parse_address(start_embedded(home / "postgres"))


def open_storage(url: URL | str, *, most_connections: int = MOST_CONNECTIONS) -> Storage:
    """Connect, and bring the tables to this program's revision.

    Parameters
    ----------
    url : a database URL; text is parsed with :func:`~hms_tune.database.connection.url.parse_address`
    most_connections : how many there are at once; who needs another waits until one is free

    Raises
    ------
    StorageError
        If the database cannot be reached within a few seconds, or a newer Optuna or hms-tune made its tables.
    """
    url = parse_address(url) if isinstance(url, str) else url
    connect = connector(url)
    with errors_told(url, connect):
        _prepare(connect, url)
        return assembled(url, connect, most_connections=most_connections)


def assembled(
    url: URL, connect: Connect, *, to_read: bool = False, most_connections: int = MOST_CONNECTIONS
) -> Storage:
    """The storage whose connections ``connect`` opens; its tables are there."""
    logging.getLogger("alembic").setLevel(logging.WARNING)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    # Of a lost connection it warns with the whole statement, a page long; we tell it in a line.
    logging.getLogger(DATABASE_LOGGER).setLevel(logging.ERROR)
    # Optuna formats the URL it is given as a template (a brace breaks it) and keeps it with the password.
    # It gets one without either; the connections come from `connect`.
    backend = PatientStorage(
        f"{DRIVER}://",
        engine_kwargs={
            "creator": connect,
            "pool_size": SLOT_CONNECTIONS,
            "max_overflow": most_connections - SLOT_CONNECTIONS,
            "pool_recycle": 1800,
        },
        skip_table_creation=True,
    )
    event.listen(backend.engine, "handle_error", refuse_writing if to_read else renew_connections)
    _ping_after_rest(backend.engine)
    return Storage(engine=backend.engine, optuna=backend, address=redacted(url))


def _ping_after_rest(engine: Engine) -> None:
    """Ask a connection that has rested whether it still lives, before it is used.

    A ping at every use would be a third of all round trips. What breaks within a few seconds is met by the
    statement itself, and the work is tried again as after any outage.
    """

    @event.listens_for(engine, "checkin")
    def rests(_connection: object, record: Any) -> None:
        record.info["rests_since"] = time.monotonic()

    @event.listens_for(engine, "checkout")
    def looks(connection: Any, record: Any, _proxy: object) -> None:
        since = record.info.get("rests_since")
        if since is None or time.monotonic() - since < _RESTED_S:
            return
        try:
            engine.dialect.do_ping(connection)
        except psycopg2.Error as error:
            raise DisconnectionError from error


@contextmanager
def errors_told(url: URL, connect: Connect, use: Use = "work") -> Iterator[None]:
    """Turn what a database that cannot be used raises into what a person can fix, without its secrets."""
    try:
        yield
    except (psycopg2.Error, DBAPIError, StorageInternalError) as error:
        raise _unusable(error, url, connect, use) from None
    except RuntimeError as error:  # another Optuna's schema; it knows whether an older or a newer one's
        what, _, hint = str(error).partition(". ")
        raise StorageError(what, where=redacted(url), hint=hint.rstrip(".")) from error


def open_patiently(url: str, patience: Patience) -> Storage:
    """As :func:`open_storage`, for a slot, which may start while the database is away."""
    started = time.monotonic()
    with Caller(patience) as caller:
        while True:
            try:
                storage = open_storage(url, most_connections=SLOT_CONNECTIONS)
            except StorageAwayError as error:
                if patience.over(time.monotonic() - started):
                    raise
                caller.refused(error)
                patience.sleep(2.0)
            else:
                caller.answered()
                storage.optuna.patience = patience
                return storage


def alone(connect: Connect) -> Engine:
    """Connections without a pool, for what is done before a database is open."""
    return create_engine(f"{DRIVER}://", creator=connect, poolclass=NullPool)


def check_server(connection: Connection, where: str) -> None:
    """Refuse a server that lacks what is used, and a database that cannot hold what is told.

    Raises
    ------
    StorageError
        With what to do.
    """
    driver: Any = connection.connection.dbapi_connection
    major = driver.info.server_version // 10_000
    if major < OLDEST_SERVER:
        raise StorageError(
            f"the server is PostgreSQL {major}, and {OLDEST_SERVER} is the oldest that is supported",
            where=where,
            hint="Upgrade it, name a newer server with --storage, or leave the address out: one comes along",
        )
    encoding = driver.info.parameter_status("server_encoding")
    if encoding != "UTF8":
        raise StorageError(
            f"the database's encoding is {encoding}, which cannot hold every letter that a trial may tell",
            where=where,
            hint="Make one that can: CREATE DATABASE hms_tune TEMPLATE template0 ENCODING 'UTF8' LOCALE 'C'",
        )


def _prepare(connect: Connect, url: URL) -> None:
    """Make the tables what this program needs; processes that start at once do it one after another."""
    from hms_tune.search.optuna_private import models

    engine = alone(connect)
    with engine.connect() as connection:
        check_server(connection, redacted(url))
        if is_settled(connection) and schema.is_current(connection, where=redacted(url)):
            return
    with engine.begin() as connection:
        lock_setup(connection)
        grants = missing_grants(connection, "work")
        if grants:
            raise StorageError(
                "the database user may not make hms-tune's tables",
                where=redacted(url),
                hint="; ".join(grants),
            )
        settle_schemas(connection, redacted(url))
        models.BaseModel.metadata.create_all(connection)
    with engine.begin() as connection:
        lock_setup(connection)
        # Optuna stamps its version when first opened, unguarded; the first of us does it for all.
        first = RDBStorage(
            f"{DRIVER}://",
            engine_kwargs={"creator": connect, "poolclass": NullPool},
            skip_table_creation=True,
        )
        first.remove_session()
        schema.upgrade(connection)


@contextmanager
def missing_rights_told(url: URL, use: Use) -> Iterator[None]:
    """Turn a right that a command lacks into the GRANT that gives it. Other errors pass through."""
    try:
        yield
    except (DBAPIError, StorageInternalError) as error:
        if state_of(error) != INSUFFICIENT_PRIVILEGE:
            raise
        raise _unusable(error, url, connector(url), use) from None


def _unusable(error: BaseException, url: URL, connect: Connect, use: Use) -> StorageError:
    kind = StorageAwayError if passes(error) else StorageError
    hint = hint_of(error)
    if state_of(error) == INSUFFICIENT_PRIVILEGE:
        with alone(connect).connect() as connection:
            hint = "; ".join(missing_grants(connection, use)) or hint
    return kind(clause_of(error), where=redacted(url), hint=hint)
