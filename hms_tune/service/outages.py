"""Faults that pass: a dropped connection, a fail-over, a deadlock. The whole transaction is tried again."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_delay, wait_random_exponential

from hms_tune.errors import StorageError

_logger = logging.getLogger(__name__)

T = TypeVar("T")

PATIENCE_S = 150.0
"""How long a database may be away before a worker gives up, s."""

_RETRIED_STATES = frozenset(
    {"40001", "40P01", "55P03"}
)  # serialization failure, deadlock, lock not available


def passes(error: BaseException) -> bool:
    """Whether trying the same transaction again may succeed."""
    if isinstance(error, StorageInternalError):  # Optuna's wrapping of whatever SQLAlchemy raised
        return error.__cause__ is not None and passes(error.__cause__)
    if isinstance(error, PoolTimeoutError):
        return True
    if not isinstance(error, DBAPIError):
        return False
    state = getattr(error.orig, "pgcode", None)
    if state in _RETRIED_STATES or error.connection_invalidated:
        return True
    # No SQLSTATE: the server was not reached. Class 57: shutting down; 53: full; 08: broken connection.
    return isinstance(error, OperationalError | InterfaceError) and (
        state is None or state[:2] in {"57", "53", "08"}
    )


def through_outages(work: Callable[[], T], *, patience_s: float = PATIENCE_S) -> T:
    """Run ``work``, an idempotent unit, again until the fault has passed.

    Raises
    ------
    StorageError
        If the database stayed away for ``patience_s`` seconds.
    """
    retrying = Retrying(
        retry=retry_if_exception(passes),
        wait=wait_random_exponential(multiplier=0.1, max=5.0),
        stop=stop_after_delay(patience_s),
        before_sleep=_say,
        reraise=True,
    )
    try:
        return retrying(work)
    except (DBAPIError, PoolTimeoutError, StorageInternalError) as error:
        if not passes(error):
            raise
        raise StorageError(
            f"the database was away for {patience_s:.0f} s",
            mend="Start the worker again; its trial continues",
        ) from error


def _say(state: RetryCallState) -> None:
    if state.attempt_number == 3:
        _logger.warning("The database does not answer; trying again")


def as_storage_error(error: Exception) -> StorageError | None:
    """What a person is told of a database that went away; None if the error is of another kind."""
    if not passes(error):
        return None
    return StorageError("the database went away", mend="Run the command again when it is back")
