"""Faults that pass: a dropped connection, a fail-over, a deadlock. The whole transaction is tried again."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from tenacity import RetryCallState, Retrying, retry_if_exception, wait_random_exponential

from hms_tune.errors import StorageAwayError, StorageError

_logger = logging.getLogger(__name__)

T = TypeVar("T")

OUTAGE_S = 1800.0
"""How long a database may be away before a worker gives up, s. Its trials train on meanwhile."""

HURRIED_S = 8.0
"""The same for a worker that was asked to stop: it is to be gone within 20 s."""

_RETRIED_STATES = frozenset({"40001", "40P01", "55P03", "25P03"})
# serialization failure, deadlock, lock not available, put out while asleep in a transaction


@dataclass(slots=True)
class Patience:
    """How long an absent database is waited for, by everything in a process that uses one storage.

    Parameters
    ----------
    most_s : the longest wait, s
    hurried_s : the longest wait once ``hurried`` says that the process is to end, s
    """

    most_s: float = OUTAGE_S
    hurried_s: float = HURRIED_S
    hurried: Callable[[], bool] = field(default=lambda: False)

    def over(self, waited_s: float) -> bool:
        """Whether a wait of ``waited_s`` seconds was long enough."""
        return waited_s >= (self.hurried_s if self.hurried() else self.most_s)

    def sleep(self, seconds: float) -> None:
        """Sleep, but not much longer than a hurry allows."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0 and not self.hurried():
            time.sleep(min(left, 0.5))


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


def is_of_the_database(error: Exception) -> bool:
    """Whether the database raised an error, or its absence did; else it is of whoever used it."""
    return isinstance(error, StorageError | SQLAlchemyError) or passes(error)


def through_outages(work: Callable[[], T], *, patience: Patience | None = None) -> T:
    """Run ``work``, an idempotent unit, again until the fault has passed.

    Raises
    ------
    StorageAwayError
        If the database stayed away for longer than the patience lasts.
    """
    patience = patience or Patience()
    started = time.monotonic()
    retrying = Retrying(
        retry=retry_if_exception(passes),
        wait=wait_random_exponential(multiplier=0.1, max=5.0),
        stop=lambda _: patience.over(time.monotonic() - started),
        sleep=patience.sleep,
        before_sleep=_say,
        reraise=True,
    )
    try:
        return retrying(work)
    except (DBAPIError, PoolTimeoutError, StorageInternalError) as error:
        if not passes(error):
            raise
        raise storage_away(time.monotonic() - started) from error


def storage_away(seconds: float) -> StorageAwayError:
    """The error a worker ends with when it has waited for long enough."""
    return StorageAwayError(
        f"the database was away for {seconds:.0f} s",
        mend="Start the worker again when it is back; its trial goes on from the last checkpoint",
    )


def _say(state: RetryCallState) -> None:
    if state.attempt_number == 3:
        _logger.warning("The database does not answer; trying again")


def as_storage_error(error: Exception) -> StorageError | None:
    """What a person is told of a database that went away; None if the error is of another kind."""
    if not passes(error):
        return None
    return StorageAwayError("the database went away", mend="Run the command again when it is back")
