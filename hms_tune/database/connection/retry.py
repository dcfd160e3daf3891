"""Faults that pass: a dropped connection, a fail-over, a deadlock. The whole transaction is tried again."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Self, TypeVar

from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import SQLAlchemyError
from tenacity import RetryCallState, Retrying, retry_if_exception, wait_random_exponential

from hms_tune.database.connection.refusals import clause_of, hint_of, reason_of
from hms_tune.database.connection.sqlstates import Fate, entry_of
from hms_tune.errors import StorageAwayError, StorageError

_logger = logging.getLogger(__name__)

T = TypeVar("T")

OUTAGE_S = 1800.0
"""How long a database may be away before a worker gives up, s. Its trials train on meanwhile."""

STOPPING_S = 8.0
"""The same for a worker that was asked to stop: it is to be gone within 20 s."""


@dataclass(slots=True)
class Patience:
    """How long an absent database is waited for, by everything in a process that uses one storage.

    Whatever the database refuses is said at once, by whoever meets it first, with how long it is asked again
    and what to do; that it answers again is said when nobody is refused any more.

    Parameters
    ----------
    most_s : the longest wait, s
    stopping_s : the longest wait once ``is_stopping`` says that the process is to end, s
    who : begins what is said
    """

    most_s: float = OUTAGE_S
    stopping_s: float = STOPPING_S
    is_stopping: Callable[[], bool] = field(default=lambda: False)
    who: str = "hms-tune"
    _refused: int = 0
    _since: float = 0.0
    _said: set[str] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def over(self, waited_s: float) -> bool:
        """Whether a wait of ``waited_s`` seconds was long enough."""
        return waited_s >= self._limit_s

    def sleep(self, seconds: float) -> None:
        """Sleep, but no longer once the process is to end."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0 and not self.is_stopping():
            time.sleep(min(left, 0.5))

    @property
    def _limit_s(self) -> float:
        return self.stopping_s if self.is_stopping() else self.most_s

    def wait_begins(self) -> None:
        """Somebody is refused from now on."""
        with self._lock:
            if self._refused == 0:
                self._since = time.monotonic()
                self._said.clear()
            self._refused += 1

    def say(self, error: BaseException) -> None:
        """Say what was refused, unless somebody has during this outage."""
        clause = clause_of(error)
        with self._lock:
            if clause in self._said:
                return
            self._said.add(clause)
        _logger.warning(
            "%s: %s. It is asked again for up to %s. %s",
            *(self.who, clause, _span(self._limit_s), hint_of(error)),
        )

    def wait_ends(self, *, answered: bool) -> None:
        """It was answered, or asks no more."""
        with self._lock:
            self._refused -= 1
            if self._refused or not answered:
                return
            away_s = time.monotonic() - self._since
        _logger.info("%s: the database answers again, after %s", self.who, _span(away_s))


class Caller:
    """One of those that ask the same database again and again, until the block is left."""

    def __init__(self, patience: Patience) -> None:
        self._patience = patience
        self._waits = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._end(answered=False)

    def refused(self, error: BaseException) -> None:
        """The database could not be used. A deadlock, which is only to be tried again, is no refusal."""
        if entry_of(error).fate is Fate.AGAIN:
            return
        if not self._waits:
            self._waits = True
            self._patience.wait_begins()
        self._patience.say(error)

    def answered(self) -> None:
        """The database answered."""
        self._end(answered=True)

    def _end(self, *, answered: bool) -> None:
        if self._waits:
            self._waits = False
            self._patience.wait_ends(answered=answered)


def _span(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 120 else f"{seconds:.0f} s"


def passes(error: BaseException) -> bool:
    """Whether trying the same transaction again may succeed."""
    return entry_of(error).fate in (Fate.AGAIN, Fate.WAIT, Fate.RECONNECT)


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
    try:
        with Caller(patience) as caller:
            retrying = Retrying(
                retry=retry_if_exception(passes),
                wait=wait_random_exponential(multiplier=0.1, max=5.0),
                stop=lambda _: patience.over(time.monotonic() - started),
                sleep=patience.sleep,
                before_sleep=lambda state: caller.refused(_error_of(state)),
                reraise=True,
            )
            done = retrying(work)
            caller.answered()
            return done
    except (SQLAlchemyError, StorageInternalError) as error:
        if not passes(error):
            raise
        raise storage_away(time.monotonic() - started, error) from error


def _error_of(state: RetryCallState) -> BaseException:
    error = None if state.outcome is None else state.outcome.exception()
    assert error is not None
    return error


def storage_away(seconds: float, error: BaseException) -> StorageAwayError:
    """The error a worker ends with when it has waited for long enough."""
    return StorageAwayError(
        f"the database was away for {_span(seconds)}: {reason_of(error)}",
        hint="Start the worker again when it is back; its trial goes on from the last checkpoint",
    )


def as_storage_error(error: Exception) -> StorageError | None:
    """What a person is told of a database that failed; None if the error is of another kind."""
    if passes(error):
        return StorageAwayError(f"the database went away: {reason_of(error)}", hint=hint_of(error))
    if entry_of(error).fate is Fate.TOLD:
        return StorageError(clause_of(error), hint=hint_of(error))
    return None
