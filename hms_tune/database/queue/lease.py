"""The right to run an attempt, held for a limited time and renewed while the trial runs.

A lease ends when its attempt ends, or when it was not renewed in time and another worker took it
(:mod:`hms_tune.database.queue.recovery`). A lease that is past its time but that nobody has taken is still
good: the holder renews it when the database is back. Time is the database's alone. A holder that has heard
nothing for longer than a lease lasts cannot know whether it still has it, and writes nothing for others until
it does.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from dataclasses import dataclass
from typing import Any, Literal, Self

import psycopg2
from sqlalchemy import ColumnElement, Connection, Row, and_, case, or_, select, update
from sqlalchemy.exc import SQLAlchemyError

from hms_tune.config.settings import DEFAULT_LEASE_SECONDS
from hms_tune.database.connect import Storage
from hms_tune.database.connection.retry import Caller, passes
from hms_tune.database.live_trials import Renewal
from hms_tune.database.tables import attempts, seconds_from_now, studies, trials, workers
from hms_tune.errors import LeaseLostError
from hms_tune.machine.processes import ProcessIdentity

_logger = logging.getLogger(__name__)

LEASE_S = DEFAULT_LEASE_SECONDS
"""How long a lease lasts without renewal: longer than a database fail-over takes."""

RENEWALS = 9
"""A lease is renewed so many times in the time that it lasts."""

Requested = Literal["running", "paused", "stopped", "trial stopped", "worker leaves"]
"""What people request of a running attempt: of it, else of its worker, else of its study."""


_REQUESTED = case(
    # A trial that is over needs no more help with its folds.
    (or_(trials.c.requested == "stop", trials.c.ended_at.is_not(None)), "trial stopped"),
    (workers.c.requested == "leave", "worker leaves"),
    else_=studies.c.state,
)


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds a lease: a slot of a worker, in a process.

    ``gpus``: how many GPUs it occupies; 0 on the CPU, a half where two slots share one.
    """

    worker_id: str
    slot: str
    process: ProcessIdentity
    gpus: float = 0.0


@dataclass(frozen=True, slots=True)
class Lease:
    """A claimed unit of work. ``lease_id`` is the fencing token: a later attempt's is larger.

    ``token`` is random. A database that was set back to a backup gives its numbers again, and by this a
    worker sees that the lease which has its number now is another's. ``fold`` is the only one that it trains,
    for the attempt that has the trial; None: it has the trial.
    """

    lease_id: int
    study_id: int
    trial_id: int
    token: str | None
    fold: int | None = None


def is_lease(lease: Lease) -> ColumnElement[bool]:
    """Whether a row of ``attempts`` is this lease. (Version 0.1.0 wrote rows without a token.)"""
    return and_(attempts.c.lease_id == lease.lease_id, attempts.c.token.is_not_distinct_from(lease.token))


def grant(
    connection: Connection,
    study_id: int,
    trial_id: int,
    holder: Holder,
    *,
    lease_s: float,
    fold: int | None = None,
    token: str | None = None,
) -> Lease:
    """Write the lease of a trial, or of one of its folds, that the caller's transaction has just claimed.

    Parameters
    ----------
    token : names the claim, so that it is found again (:func:`granted`) when the COMMIT's answer was lost;
        one is drawn if None
    """
    process, token = holder.process, token or uuid.uuid4().hex
    lease_id = connection.execute(
        attempts.insert()
        .values(
            study_id=study_id,
            trial_id=trial_id,
            worker_id=holder.worker_id,
            slot=holder.slot,
            host=process.host,
            pid=process.pid,
            process_started=process.started,
            machine=process.machine,
            gpus=holder.gpus,
            token=token,
            helps=fold is not None,
            fold=fold,
            expires_at=seconds_from_now(lease_s),
        )
        .returning(attempts.c.lease_id)
    ).scalar_one()
    return Lease(lease_id, study_id, trial_id, token, fold)


def granted(connection: Connection, token: str) -> Lease | None:
    """The live lease of a claim that was committed though its claimant was not told."""
    row = connection.execute(
        select(attempts).where(attempts.c.token == token, attempts.c.ended_at.is_(None))
    ).one_or_none()
    return None if row is None else lease_of(row)


def lease_of(row: Row[Any]) -> Lease:
    """The lease that a row of ``attempts`` is."""
    return Lease(row.lease_id, row.study_id, row.trial_id, row.token, row.fold if row.helps else None)


def lock_lease(connection: Connection, lease: Lease) -> None:
    """Lock a lease for the rest of the transaction, so that nobody takes it while its result is written.

    Raises
    ------
    LeaseLostError
        If it has ended.
    """
    ended = connection.execute(
        select(attempts.c.ended_at).where(is_lease(lease)).with_for_update()
    ).one_or_none()
    if ended is None or ended.ended_at is not None:
        raise lease_lost(lease)


def lease_lost(lease: Lease) -> LeaseLostError:
    """The error a loser sees."""
    return LeaseLostError(
        "the lease was lost: this worker was silent for too long, and the trial goes on elsewhere",
        where=f"lease {lease.lease_id}",
    )


class LeaseKeeper:
    """Renews a lease from a thread of its own while the trial runs, through outages.

    Parameters
    ----------
    lease_s : how long the lease lasts after each renewal, s
    every_s : time between renewals, s; by default ``lease_s`` / :data:`RENEWALS`
    granted_at : a moment before the lease was granted, of :func:`seconds_awake_or_asleep`; unless it is
        given, nothing is certain before the first renewal
    """

    def __init__(
        self,
        storage: Storage,
        lease: Lease,
        *,
        lease_s: float,
        every_s: float | None = None,
        granted_at: float = float("-inf"),
    ) -> None:
        self._storage = storage
        self._lease = lease
        self._lease_s = lease_s
        self._every_s = lease_s / RENEWALS if every_s is None else every_s
        self._closing = threading.Event()
        self._lost = threading.Event()
        self._heard: tuple[float, Requested] = (granted_at, "running")
        self._renewed_at = granted_at
        self._thread = threading.Thread(target=self._run, name=f"lease-{lease.lease_id}", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._closing.set()
        self._thread.join(timeout=10.0)

    @property
    def lost(self) -> bool:
        """Whether another worker has taken the trial, as far as this one knows."""
        return self._lost.is_set()

    @property
    def certain(self) -> bool:
        """Whether the trial is still ours beyond doubt: the lease was renewed less than its time ago."""
        return not self.lost and seconds_awake_or_asleep() - self._renewed_at < self._lease_s

    def check(self) -> None:
        """Refuse to go on with a trial that is no longer ours.

        Raises
        ------
        LeaseLostError
            If the lease is known to be lost.
        """
        if self.lost:
            raise lease_lost(self._lease)

    @property
    def renewal(self) -> Renewal:
        """What lets reports renew the lease, and bring what people request back with them."""
        return Renewal(
            lease_id=self._lease.lease_id,
            token=self._lease.token,
            lease_s=self._lease_s,
            every_s=self._every_s,
            clock=seconds_awake_or_asleep,
            heard=self._hear,
        )

    def _hear(self, row: Row[Any] | None, asked_at: float) -> None:
        if row is None or not row.held:
            self._lost.set()
            return
        if row.renewed:
            self._renewed_at = asked_at
        requested: Requested = row.study
        if row.of_trial == "stop":
            requested = "trial stopped"
        elif row.of_worker == "leave":
            requested = "worker leaves"
        self._heard = (asked_at, requested)

    def heard_within(self, seconds: float) -> bool:
        """Whether the database said so recently what people request."""
        return seconds_awake_or_asleep() - self._heard[0] < seconds

    def requested(self, *, fresh_s: float = 2.0) -> Requested:
        """What people request of the attempt now; asked of the database at most every ``fresh_s`` seconds.

        During an outage it is what was last known.
        """
        state = self._heard[1]
        if self.lost:
            return "stopped"
        if self.heard_within(fresh_s):
            return state
        asked_at = seconds_awake_or_asleep()
        try:
            with self._storage.statements() as connection:
                row = connection.execute(
                    select(_REQUESTED.label("requested"), attempts.c.ended_at)
                    .join_from(attempts, studies, attempts.c.study_id == studies.c.study_id)
                    .join(trials, attempts.c.trial_id == trials.c.trial_id)
                    .outerjoin(workers, attempts.c.worker_id == workers.c.worker_id)
                    .where(is_lease(self._lease))
                ).one_or_none()
        except (SQLAlchemyError, psycopg2.Error) as error:
            if not passes(error):
                raise
            return state
        if row is None or row.ended_at is not None:
            self._lost.set()
            return "stopped"
        requested: Requested = row.requested
        self._heard = (asked_at, requested)
        return requested

    def _run(self) -> None:
        with Caller(self._storage.patience) as caller:
            self._renew_on(caller)

    def _renew_on(self, caller: Caller) -> None:
        delay = self._every_s
        while not self._closing.wait(delay):
            asked_at = seconds_awake_or_asleep()
            since = asked_at - self._renewed_at
            if since < self._every_s:  # a report has renewed it
                delay = self._every_s - since
                continue
            try:
                renewed = self._renew()
                caller.answered()
                if renewed is None:
                    delay = min(self._every_s, 1.0)
                    continue
                if not renewed:
                    self._lost.set()  # or its trial has just ended here
                    return
                self._renewed_at = asked_at
                delay = self._every_s
            except (SQLAlchemyError, psycopg2.Error) as error:
                if passes(error):
                    caller.refused(error)
                else:
                    _logger.error(
                        "Lease %d cannot be renewed: %s", self._lease.lease_id, type(error).__name__
                    )
                # The database is away. It is asked often, since the lease's time goes on.
                delay = min(self._every_s, 1.0)

    def _renew(self) -> bool | None:
        """Renew the lease; returns whether it is held still, None while another transaction has it locked.

        It waits for no lock. The slot may be writing the attempt's result in a transaction that holds the
        lease and needs the connection which would wait here.
        """
        lease = is_lease(self._lease)
        free = select(attempts.c.lease_id).where(lease, attempts.c.ended_at.is_(None))
        # A process that is stopped in a transaction would keep the lease locked, and nobody could take it.
        with self._storage.statements() as connection:
            renewed = connection.execute(
                update(attempts)
                .where(attempts.c.lease_id == free.with_for_update(skip_locked=True).scalar_subquery())
                .values(expires_at=seconds_from_now(self._lease_s))
                .returning(attempts.c.lease_id)
            ).scalar_one_or_none()
            if renewed is not None:
                return True
            return None if connection.execute(free).first() is not None else False


def seconds_awake_or_asleep() -> float:
    """A steady clock that goes on while the machine or the process sleeps, where the system has one."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))
