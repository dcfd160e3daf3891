"""What becomes of an error of the database, by its SQLSTATE; the one table of that.

The names and numbers are PostgreSQL's, as psycopg2 lists them. A message is in the server's language, and
says nothing to a program; where libpq refuses a connection there is no SQLSTATE, only the class of the error.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import psycopg2
from optuna.exceptions import StorageInternalError
from psycopg2 import errorcodes as code
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from hms_tune.errors import StorageError


class Fate(Enum):
    """What becomes of an error."""

    AGAIN = "the transaction is tried again, and nobody is told"
    WAIT = "the transaction is tried again until the database takes it, and a person is told"
    RECONNECT = "as WAIT, on new connections: the old ones lead to a server that does not serve"
    TOLD = "a person can fix it: one sentence, and the worker ends"
    FAULT = "this program is wrong: a traceback"


@dataclass(frozen=True, slots=True)
class Entry:
    """What becomes of a SQLSTATE, and what a person does about it, where that is known."""

    fate: Fate
    hint: str | None = None


_LATER = "Nothing, unless it lasts: then read the server's log"

STATES: dict[str, Entry] = {
    code.IDLE_IN_TRANSACTION_SESSION_TIMEOUT: Entry(Fate.AGAIN),
    code.TRANSACTION_TIMEOUT: Entry(Fate.AGAIN),
    code.LOCK_NOT_AVAILABLE: Entry(Fate.AGAIN),
    code.IDLE_SESSION_TIMEOUT: Entry(Fate.AGAIN),
    code.READ_ONLY_SQL_TRANSACTION: Entry(
        Fate.RECONNECT,
        "Nothing during a fail-over; if it lasts, the address leads to a standby, or the server is closed to "
        "writing (its disk is full, or default_transaction_read_only is on)",
    ),
    code.QUERY_CANCELED: Entry(
        Fate.WAIT,
        "Somebody, or a limit between here and the server, cancels statements: read the server's log",
    ),
    code.DISK_FULL: Entry(
        Fate.WAIT,
        "Free space on the server's disk, or in its /dev/shm where that is told (--shm-size, shm_size)",
    ),
    code.OUT_OF_MEMORY: Entry(
        Fate.WAIT, "Give the server more memory, or lower work_mem and max_connections"
    ),
    code.IO_ERROR: Entry(Fate.WAIT, "Look at the server's disk: it could not be read or written"),
    code.INSUFFICIENT_PRIVILEGE: Entry(
        Fate.TOLD, "Ask the database's administrator for it, or connect as the user that owns the tables"
    ),
    code.INVALID_CATALOG_NAME: Entry(
        Fate.TOLD, "Make the database (CREATE DATABASE), or name another in the URL"
    ),
    code.UNTRANSLATABLE_CHARACTER: Entry(
        Fate.TOLD,
        "Use a database whose encoding is UTF8: CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0",
    ),
}

CLASSES: dict[str, Entry] = {
    code.CLASS_CONNECTION_EXCEPTION: Entry(Fate.WAIT),
    code.CLASS_TRANSACTION_ROLLBACK: Entry(Fate.AGAIN),  # serialization failures, deadlocks
    code.CLASS_INSUFFICIENT_RESOURCES: Entry(Fate.WAIT),
    code.CLASS_OPERATOR_INTERVENTION: Entry(Fate.WAIT, _LATER),  # it stops, starts, or was stopped
    code.CLASS_INVALID_AUTHORIZATION_SPECIFICATION: Entry(
        Fate.TOLD, "Check the user and the password in the URL, or in the file that PGPASSFILE names"
    ),
}
"""By the first two characters, where the five are not in :data:`STATES`."""

_FAULT = Entry(Fate.FAULT)
_UNREACHED = Entry(Fate.WAIT)
_NOT_REACHED = (OperationalError, InterfaceError, psycopg2.OperationalError, psycopg2.InterfaceError)

_STALE_PLAN = "RevalidateCachedQuery"
"""The server's function that finds a prepared statement older than the tables: a pooler may keep one."""


def entry_of(error: BaseException) -> Entry:
    """What becomes of an error, whoever raised it."""
    error = _inmost(error)
    if isinstance(error, PoolTimeoutError):
        return _UNREACHED
    if not isinstance(error, DBAPIError | psycopg2.Error):
        return _FAULT
    state = state_of(error)
    entry = _FAULT if state is None else _entry(state, error)
    if entry.fate is Fate.FAULT and isinstance(error, DBAPIError) and error.connection_invalidated:
        return _UNREACHED
    if state is not None:
        return entry
    # Without a SQLSTATE the server was not reached, unless the class says that the call was wrong.
    return _UNREACHED if isinstance(error, _NOT_REACHED) else _FAULT


def state_of(error: BaseException) -> str | None:
    """The SQLSTATE that the server gave, if it was reached."""
    error = _inmost(error)
    state: str | None = getattr(getattr(error, "orig", error), "pgcode", None)
    return state


def renew_connections(context: ExceptionContext) -> None:
    """Let the pool open new connections where the old ones are of no use; called at each error."""
    if context.original_exception and entry_of(context.original_exception).fate is Fate.RECONNECT:
        context.is_disconnect = True


def refuse_writing(context: ExceptionContext) -> None:
    """Refuse at once what is written through a database that was opened to read; called at each error."""
    error = context.original_exception
    if error and state_of(error) == code.READ_ONLY_SQL_TRANSACTION:
        raise StorageError("the database was opened to read, and nothing is written") from error


def _inmost(error: BaseException) -> BaseException:
    """Without Optuna's wrapping of whatever SQLAlchemy raised."""
    while isinstance(error, StorageInternalError) and error.__cause__ is not None:
        error = error.__cause__
    return error


def _entry(state: str, error: BaseException) -> Entry:
    if state == code.FEATURE_NOT_SUPPORTED and _server_function(error) == _STALE_PLAN:
        return Entry(Fate.RECONNECT)
    return STATES.get(state) or CLASSES.get(state[:2]) or _FAULT


def _server_function(error: BaseException) -> str | None:
    raised = getattr(error, "orig", error)
    name: str | None = getattr(getattr(raised, "diag", None), "source_function", None)
    return name
