"""What one process at a time may do, and how the others are kept from it.

Whatever belongs to a study is locked, or leased, by a row of our own: nobody without a right on our tables
can hold it, and it holds behind a connection pooler. What is made before there are tables has PostgreSQL's
advisory lock, which whoever may connect can take; nobody for whom all is there waits for that.
"""

from __future__ import annotations

from datetime import datetime

from psycopg2.errors import LockNotAvailable
from sqlalchemy import Connection, null, or_, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import OperationalError

from hms_tune.database.tables import duties, now, seconds_from_now, studies
from hms_tune.errors import StorageError

SETUP_LOCK = 4_865_141
"""The number of the advisory lock of what all processes share: tables, roles, a new study. Any would do."""

SETUP_S = 30
"""How long the set-up lock is waited for, s; who needs it holds it for moments."""

PUBLISHER_S = 30.0
"""How long a publisher is elected without renewal, s."""


def lock_setup(connection: Connection) -> None:
    """Wait for the set-up lock, and keep it until the transaction ends.

    Raises
    ------
    StorageError
        If it does not become free: whoever may connect to the database can take it.
    """
    connection.execute(text("SELECT set_config('lock_timeout', :ms, true)"), {"ms": str(1000 * SETUP_S)})
    try:
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": SETUP_LOCK})
    except OperationalError as error:
        if not isinstance(error.orig, LockNotAvailable):
            raise
        raise StorageError(
            f"another session has held hms-tune's set-up lock for more than {SETUP_S} s",
            where=f"advisory lock {SETUP_LOCK}",
            hint="See who in pg_locks and pg_stat_activity, end it with pg_terminate_backend(pid), and let "
            "nobody connect whom you do not trust (REVOKE CONNECT ON DATABASE … FROM PUBLIC)",
        ) from None
    connection.execute(text("SET LOCAL lock_timeout TO DEFAULT"))


def lock_study(connection: Connection, study_id: int) -> None:
    """Wait for a study's row, and keep it until the transaction ends."""
    connection.execute(
        select(studies.c.study_id).where(studies.c.study_id == study_id).with_for_update(key_share=True)
    )


def lock_outbox(connection: Connection, study_id: int) -> None:
    """Wait for what people were told of a study, and keep it until the transaction ends."""
    row = insert(duties).values(study_id=study_id, duty="outbox")
    connection.execute(
        row.on_conflict_do_update(index_elements=["study_id", "duty"], set_={"duty": row.excluded.duty})
    )


def elect_publisher(connection: Connection, study_id: int, process: str) -> bool:
    """Make a process the one that writes a study's page, or let it remain so; False: another is.

    Parameters
    ----------
    process : names it; not the same for any two
    """
    row = insert(duties).values(
        study_id=study_id, duty="publisher", holder=process, until=seconds_from_now(PUBLISHER_S)
    )
    elected = row.on_conflict_do_update(
        index_elements=["study_id", "duty"],
        set_={"holder": row.excluded.holder, "until": row.excluded.until},
        where=or_(duties.c.holder == process, duties.c.holder.is_(None), duties.c.until < now()),
    ).returning(duties.c.duty)
    return connection.execute(elected).first() is not None


def publishers_term(connection: Connection, study_id: int) -> tuple[str | None, datetime | None, bool]:
    """Who is elected, until when, and whether that is over."""
    term = connection.execute(
        select(duties.c.holder, duties.c.until, (duties.c.until < now()).label("over")).where(
            duties.c.study_id == study_id, duties.c.duty == "publisher"
        )
    ).one_or_none()
    return (None, None, True) if term is None else (term.holder, term.until, bool(term.over))


def dismiss_publisher(connection: Connection, study_id: int, process: str) -> None:
    """Let another process be elected at once."""
    connection.execute(
        update(duties)
        .where(duties.c.study_id == study_id, duties.c.duty == "publisher", duties.c.holder == process)
        .values(holder=null())
    )
