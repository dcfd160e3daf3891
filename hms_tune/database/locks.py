"""Every advisory lock of the product: its number, and what it guards.

PostgreSQL lets go of a lock when the process that holds it dies. Any number would do; each is taken once.
"""

from __future__ import annotations

from enum import IntEnum, unique

from psycopg2.errors import LockNotAvailable
from sqlalchemy import Connection, text
from sqlalchemy.exc import OperationalError

from hms_tune.database.connection.pooler import keeps_its_session
from hms_tune.errors import StorageError

SETUP_S = 30
"""How long the set-up lock is waited for, s; who needs it holds it for moments."""


@unique
class Lock(IntEnum):
    """Numbers of the locks. All but ``SETUP`` are taken for one study."""

    SETUP = 4_865_141
    """What all processes share (tables, roles, a new study): one process at a time creates it."""

    STUDY = 4_865_142
    """Optuna's trials of a study: one worker at a time makes or recovers them."""

    PUBLISHER = 4_865_143
    """The study's page in the dashboard: its publisher holds it for as long as it lives."""

    OUTBOX = 4_865_144
    """What people were told of a study: one worker at a time compares it with what has happened since."""


def lock_setup(connection: Connection) -> None:
    """Wait for the set-up lock, and keep it until the transaction ends.

    Raises
    ------
    StorageError
        If it does not become free: whoever may connect to the database can take it.
    """
    connection.execute(text("SELECT set_config('lock_timeout', :ms, true)"), {"ms": str(1000 * SETUP_S)})
    try:
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": int(Lock.SETUP)})
    except OperationalError as error:
        if not isinstance(error.orig, LockNotAvailable):
            raise
        raise StorageError(
            f"another session has held hms-tune's set-up lock for more than {SETUP_S} s",
            where=f"advisory lock {int(Lock.SETUP)}",
            hint="See who in pg_locks and pg_stat_activity, end it with pg_terminate_backend(pid), and let "
            "nobody connect whom you do not trust (REVOKE CONNECT ON DATABASE … FROM PUBLIC)",
        ) from None
    connection.execute(text("SET LOCAL lock_timeout TO DEFAULT"))


def lock_study(connection: Connection, study_id: int, *, wait: bool = True) -> bool:
    """Take a study's lock until the transaction ends; returns False if ``wait`` is, and another has it."""
    if wait:
        _wait(connection, Lock.STUDY, study_id)
        return True
    taken = text("SELECT pg_try_advisory_xact_lock(:lock, :study)")
    return bool(connection.execute(taken, _key(Lock.STUDY, study_id)).scalar())


def lock_outbox(connection: Connection, study_id: int) -> None:
    """Wait for the lock of a study's outbox, and keep it until the transaction ends."""
    _wait(connection, Lock.OUTBOX, study_id)


def is_elected_publisher(connection: Connection, study_id: int) -> bool:
    """Take the publisher's lock, or say that this connection has it already.

    It belongs to the connection, not to a transaction, and is free again when the connection closes. Behind a
    pooler that has no meaning: there each worker publishes.
    """
    if not keeps_its_session(connection):
        return True
    held = text(
        "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()"
        " AND classid = :lock AND objid = :study AND objsubid = 2 AND granted"
    )
    key = _key(Lock.PUBLISHER, study_id)
    elected = bool(connection.execute(held, key).scalar()) or bool(
        connection.execute(text("SELECT pg_try_advisory_lock(:lock, :study)"), key).scalar()
    )
    connection.commit()  # no transaction stays open while figures are drawn
    return elected


def _wait(connection: Connection, lock: Lock, study_id: int) -> None:
    connection.execute(text("SELECT pg_advisory_xact_lock(:lock, :study)"), _key(lock, study_id))


def _key(lock: Lock, study_id: int) -> dict[str, int]:
    return {"lock": int(lock), "study": study_id}
