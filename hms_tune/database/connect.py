"""The one PostgreSQL behind a search: opened, its tables made, its clock and its connections in order."""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import optuna
import psycopg2
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from sqlalchemy import Connection, Dialect, Engine, event, text
from sqlalchemy.dialects.postgresql.psycopg2 import PGDialect_psycopg2
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError, DisconnectionError

from hms_tune.database import tables
from hms_tune.database.embedded.server import start_embedded
from hms_tune.database.optuna_storage import PatientStorage
from hms_tune.database.retry import Patience, through_outages
from hms_tune.database.url import DRIVER, parse_address, redacted, without_secrets
from hms_tune.database.wait_limit import limit_waiting
from hms_tune.errors import StorageAwayError, StorageError

T = TypeVar("T")

Connect = functools.partial[psycopg2.extensions.connection]
"""Opens a connection."""

_RESTED_S = 5.0
"""A connection that was used this recently is taken to live, s."""

_SETUP_LOCK = 4_865_141  # any number, the same in every process
_STUDY_LOCKS = 4_865_142


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

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """A transaction. As every one here, the server undoes it if this process falls asleep in it."""
        with self.engine.begin() as connection:
            yield connection

    @contextmanager
    def study_lock(self, study_id: int, *, wait: bool = True) -> Iterator[Connection | None]:
        """A transaction during which no one else asks for a trial of this study or recovers one.

        It is PostgreSQL's advisory lock: a process that dies lets go of it. Without ``wait``, None comes when
        another holds it.
        """
        with self.transaction() as connection:
            key = {"kind": _STUDY_LOCKS, "study": study_id}
            if wait:
                connection.execute(text("SELECT pg_advisory_xact_lock(:kind, :study)"), key)
                yield connection
            elif connection.execute(text("SELECT pg_try_advisory_xact_lock(:kind, :study)"), key).scalar():
                yield connection
            else:
                yield None

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


def lock_setup(connection: Connection) -> None:
    """For the rest of a transaction: no other process creates what they all share."""
    connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _SETUP_LOCK})


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


def open_storage(url: URL | str) -> Storage:
    """Connect, and create the tables that are missing.

    Parameters
    ----------
    url : a database URL; text is parsed with :func:`~hms_tune.database.url.parse_address`

    Raises
    ------
    StorageError
        If the database cannot be reached within a few seconds, or is of a newer Optuna.
    """
    url = parse_address(url) if isinstance(url, str) else url
    connect = connector(url)
    with errors_told(url):
        _prepare(connect)
        return assembled(url, connect)


def connector(url: URL, options: str = "") -> Connect:
    """What opens a connection to a database, with this product's time zone, time-outs and ``options``."""
    arguments, keywords = cast("Dialect", PGDialect_psycopg2()).create_connect_args(url)  # type: ignore[no-untyped-call]
    # A process that is stopped in a transaction (SIGSTOP, a laptop's lid) would hold up the whole fleet with
    # the rows it has locked.
    ours = f"-c timezone=UTC -c idle_in_transaction_session_timeout=60s {options}"
    settings: dict[str, Any] = {
        "options": f"{ours} {keywords.pop('options', '')}".strip(),
        "application_name": "hms-tune",
        # A peer that vanished without a word is noticed in about a minute.
        "keepalives": 1,
        "keepalives_idle": 20,
        "keepalives_interval": 10,
        "keepalives_count": 3,
    }
    limit_waiting()
    return functools.partial(psycopg2.connect, *arguments, **{**keywords, **settings})


def assembled(url: URL, connect: Connect) -> Storage:
    """The storage whose connections ``connect`` opens; its tables are there."""
    logging.getLogger("alembic").setLevel(logging.WARNING)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    # Of a lost connection it warns with the whole statement, a page long; we tell it in a line.
    logging.getLogger("optuna.storages._rdb.storage").setLevel(logging.ERROR)
    # Optuna formats the URL it is given as a template (a brace breaks it) and keeps it with the password.
    # It gets one without either; the connections come from `connect`.
    backend = PatientStorage(
        f"{DRIVER}://",
        engine_kwargs={
            "creator": connect,
            "pool_size": 2,
            "max_overflow": 6,
            "pool_recycle": 1800,
        },
        skip_table_creation=True,
    )
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
def errors_told(url: URL) -> Iterator[None]:
    """Turn what a database that cannot be opened raises into what a person can mend, without its secrets."""
    try:
        yield
    except psycopg2.OperationalError as error:
        raise _unreachable(error, url) from None
    except DBAPIError as error:
        raise _unreachable(error.orig or error, url) from None
    except StorageInternalError as error:  # the connection went while Optuna looked
        cause = error.__cause__
        raise _unreachable(getattr(cause, "orig", None) or cause or error, url) from None
    except RuntimeError as error:  # another Optuna's schema
        raise StorageError(
            str(error).split(". ")[0], where=redacted(url), mend="Run optuna storage upgrade"
        ) from error


def open_patiently(url: str, *, hurried: Callable[[], bool]) -> Storage:
    """As :func:`open_storage`, for a process that starts while the database may be away.

    Parameters
    ----------
    hurried : whether the process is to end
    """
    patience = Patience(hurried=hurried)
    started = time.monotonic()
    while True:
        try:
            storage = open_storage(url)
        except StorageAwayError:
            if patience.over(time.monotonic() - started):
                raise
            patience.sleep(2.0)
        else:
            storage.patience.hurried = hurried
            return storage


def _prepare(connect: Connect) -> None:
    """Create Optuna's tables and ours; processes that start at once do it one after another."""
    from optuna.storages._rdb import models
    from sqlalchemy import NullPool, create_engine

    engine = create_engine(f"{DRIVER}://", creator=connect, poolclass=NullPool)
    with engine.begin() as connection:
        lock_setup(connection)
        models.BaseModel.metadata.create_all(connection)
        tables.create_missing(connection)
    with engine.begin() as connection:
        # Optuna stamps its version when first opened, unguarded; the first of us does it for all.
        lock_setup(connection)
        first = RDBStorage(
            f"{DRIVER}://",
            engine_kwargs={"creator": connect, "poolclass": NullPool},
            skip_table_creation=True,
        )
        first.remove_session()


def _unreachable(error: BaseException, url: URL) -> StorageError:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    first = without_secrets(lines[0], url)
    mend = next((mend for fragment, mend in _MENDS.items() if fragment in str(error)), _MEND)
    away = isinstance(error, psycopg2.OperationalError) and getattr(error, "pgcode", None) is None
    kind = StorageAwayError if away else StorageError
    return kind(f"the database cannot be used: {first}", where=redacted(url), mend=mend)


_MEND = "Check that the server runs, and the URL in --storage or HMS_TUNE_STORAGE"
_MENDS = {
    "root certificate file": "Name the authority's certificate in the URL: ?sslrootcert=FILE",
    "certificate verify failed": "The server's certificate is not of the authority that ?sslrootcert= names",
    "does not match host name": "Use the host name that the server's certificate is for",
    "does not support SSL": "Turn TLS on in the server, or leave sslmode out of the URL",
    "no password supplied": "Write a password file (chmod 600) and name it in PGPASSFILE",
    "password authentication failed": "Check the password in the URL, or in the file that PGPASSFILE names",
}
"""What to do, by a part of libpq's message."""
