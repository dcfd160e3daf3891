"""What a database says when it cannot be used, and what a person does about it."""

from __future__ import annotations

from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import DBAPIError

from hms_tune.database.connection.sqlstates import entry_of, state_of
from hms_tune.errors import HmsTuneError

_FEWER = "or run fewer slots: allow four connections for each (docs/fleet.md)"
_WAIT = "Nothing, unless it lasts: then read the server's log"
_OTHERWISE = "Check that the server runs, and the URL in --storage or HMS_TUNE_STORAGE"
_ASKED = "Read the server's log"
_HINTS = {
    "too many connections for role": f"Raise the role's CONNECTION LIMIT (ALTER ROLE), {_FEWER}",
    "too many connections for database": f"Raise the database's CONNECTION LIMIT (ALTER DATABASE), {_FEWER}",
    "too many clients": f"Raise max_connections in postgresql.conf, {_FEWER}",
    "connection slots are reserved": f"Raise max_connections in postgresql.conf, {_FEWER}",
    "is starting up": _WAIT,
    "is shutting down": _WAIT,
    "in recovery mode": _WAIT,
    "not yet accepting connections": _WAIT,
    "root certificate file": "Name the authority's certificate in the URL: ?sslrootcert=FILE",
    "certificate verify failed": "The server's certificate is not of the authority that ?sslrootcert= names",
    "does not match host name": "Use the host name that the server's certificate is for",
    "does not support SSL": "Turn TLS on in the server, or leave sslmode out of the URL",
    "no password supplied": "Write a password file (chmod 600) and name it in PGPASSFILE",
    "password authentication failed": "Check the password in the URL, or in the file that PGPASSFILE names",
    "permission denied for database": "Let the user make a schema there (GRANT CREATE ON DATABASE … TO …)",
    "permission denied for schema": "Let the user make tables there (GRANT CREATE ON SCHEMA … TO …), or name "
    "another schema: ?options=-csearch_path=SCHEMA",
}
"""What to do, by a part of the message of libpq or the server."""


def reason_of(error: BaseException) -> str:
    """What the database, or its driver, said: one line."""
    if isinstance(error, StorageInternalError) and error.__cause__ is not None:
        return reason_of(error.__cause__)
    if isinstance(error, DBAPIError) and error.orig is not None:
        return reason_of(error.orig)
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return " ".join(lines[0].split()).rstrip(".")


def clause_of(error: BaseException) -> str:
    """That the database cannot be used, and why."""
    return (
        error.what if isinstance(error, HmsTuneError) else f"the database cannot be used: {reason_of(error)}"
    )


def hint_of(error: BaseException) -> str:
    """What a person does about it."""
    if isinstance(error, HmsTuneError):
        return error.hint or _OTHERWISE
    known = entry_of(error).hint
    if known is not None:
        return known
    reason = reason_of(error)
    otherwise = _OTHERWISE if state_of(error) is None else _ASKED
    return next((hint for fragment, hint in _HINTS.items() if fragment in reason), otherwise)
