"""What happens to the trials of workers that are gone.

Any worker looks: at its start, between trials, and while it waits for others. A lease is over when the
database's clock has passed its time, or earlier when its process is gone from this same machine and nobody
renews it from another (:class:`SilentLeases`). Its Optuna trial is failed with the reason, and our trial
waits for the next slot, which continues from the checkpoint.

Dying in here is harmless. Our side is one transaction; on Optuna's side, an attempt is marked as lost before
it is failed, so the next recovery can tell a trial that was lost from one that failed by itself, and counts
it once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial
from sqlalchemy import Connection, Row, func, or_, select, text

from hms_tune.database.connect import Storage
from hms_tune.database.optuna_trial import (
    LEASE_ATTRIBUTE,
    REASON_ATTRIBUTE,
    STATE_ATTRIBUTE,
    optuna_state,
)
from hms_tune.database.queries.workers import process_of
from hms_tune.database.queue.attempt import Result
from hms_tune.database.queue.end import end_lease, end_lease_and_trial, result_of
from hms_tune.database.queue.lease import RENEWALS, Lease, lease_of, seconds_awake_or_asleep
from hms_tune.database.queue.start import bind
from hms_tune.database.tables import SCHEMA, attempts, now, trials
from hms_tune.machine.processes import ProcessIdentity
from hms_tune.search.optuna_private import trial_id_of
from hms_tune.trial_state import AttemptState

_logger = logging.getLogger(__name__)

MOST_LOSSES = 3
"""A trial that took this many workers with it, one after another at the same place, is set aside.

One that got further each time is not: on spot instances every worker goes sooner or later.
"""


@dataclass(frozen=True, slots=True)
class Recovered:
    """A lease that was ended, and how."""

    lease: Lease
    number: int | None
    result: Result
    set_aside: bool


@dataclass(slots=True)
class _Watched:
    """A lease under watch: what it was when it last moved, and when it was looked at, s."""

    expires_at: datetime
    silent_s: float
    since: float
    looked_at: float


@dataclass(slots=True)
class SilentLeases:
    """Leases whose processes are gone from this machine, and since when nobody has renewed them.

    A machine that was cloned while it ran has everything by which this one knows its own: name, boot id,
    process numbers, files in memory. A process that died here may live there. But whoever lives renews its
    lease; one that did not move while it was watched, without a break, for the time of two renewals is dead.

    Parameters
    ----------
    lease_s : how long this worker's own leases last; others' are seen to last longer
    clock : a steady one, s
    """

    lease_s: float
    clock: Callable[[], float] = seconds_awake_or_asleep
    _watched: dict[int, _Watched] = field(default_factory=dict)

    def is_silent(self, lease_id: int, expires_at: datetime, left_s: float) -> bool:
        """Look at a lease; returns whether it was watched for long enough and never moved."""
        at = self.clock()
        watched = self._watched.get(lease_id)
        if (
            watched is None
            or watched.expires_at != expires_at
            or at - watched.looked_at > self.lease_s / RENEWALS
        ):
            silent_s = 2 * max(self.lease_s, left_s) / RENEWALS
            self._watched[lease_id] = _Watched(expires_at, silent_s, at, at)
            return False
        watched.looked_at = at
        return at - watched.since >= watched.silent_s

    def begin_anew(self) -> None:
        """The database was away: nobody could renew anything."""
        self._watched.clear()


def recover(
    storage: Storage,
    study_id: int,
    observer: ProcessIdentity,
    silent: SilentLeases,
    *,
    most_losses: int = MOST_LOSSES,
    rungs: Sequence[int] = (),
) -> tuple[Recovered, ...]:
    """End the leases of workers that are gone; their trials wait for a slot.

    Of several workers that find one gone, the first to lock its lease does it. Where none is gone, this is
    one statement, and locks nothing.

    Parameters
    ----------
    silent : what earlier looks saw
    rungs : the steps at which trials of the study pause
    """
    try:
        with storage.statements() as connection:
            gone = [row.lease_id for row in _gone(connection, study_id, observer, silent)]
    except Exception:
        silent.begin_anew()
        raise
    if not gone:
        return ()
    with storage.transaction() as connection:
        return tuple(
            _recover_one(storage, connection, row, most_losses, rungs)
            for row in _gone(connection, study_id, observer, silent, among=gone)
        )


def _gone(
    connection: Connection,
    study_id: int,
    observer: ProcessIdentity,
    silent: SilentLeases,
    *,
    among: Collection[int] | None = None,
) -> list[Row[Any]]:
    """Live leases whose workers are gone.

    Parameters
    ----------
    among : some leases, which are locked then; one that is locked is just being told its result, and not gone
    """
    live = (
        select(
            attempts,
            (attempts.c.expires_at < now()).label("expired"),
            func.extract("epoch", attempts.c.expires_at - now()).label("left_s"),
            trials.c.losses,
        )
        .join_from(attempts, trials, attempts.c.trial_id == trials.c.trial_id)
        .where(
            attempts.c.study_id == study_id,
            attempts.c.ended_at.is_(None),
            or_(attempts.c.expires_at < now(), attempts.c.machine == observer.machine),
        )
        .order_by(attempts.c.lease_id)
    )
    if among is not None:
        live = live.where(attempts.c.lease_id.in_(among)).with_for_update(of=attempts, skip_locked=True)
    return [
        row
        for row in connection.execute(live)
        if row.expired
        or (
            process_of(row).is_gone_from_here(observer)
            and silent.is_silent(row.lease_id, row.expires_at, float(row.left_s))
        )
    ]


def end_orphans(storage: Storage, study_id: int) -> None:
    """End Optuna trials that arrived too late to be bound.

    A worker of version 0.1.0 made them before it bound them. If it was killed, or its connection was cut, the
    INSERT may be committed after its lease was ended, or after it had asked again and been given another.
    """
    with storage.statements() as connection:
        orphans = connection.execute(_ORPHANS, {"study": study_id, "key": LEASE_ATTRIBUTE}).scalars().all()
    for optuna_trial_id in orphans:
        with suppress(KeyError, UpdateFinishedTrialError):
            _end(storage, storage.optuna.get_trial(optuna_trial_id), None)


_ORPHANS = text(f"""
    SELECT trials.trial_id FROM trials
    JOIN trial_user_attributes AS mark ON mark.trial_id = trials.trial_id AND mark.key = :key
    JOIN {SCHEMA}.attempts ON attempts.lease_id = mark.value_json::bigint
    WHERE trials.study_id = :study AND trials.state = 'RUNNING'
    AND (
        attempts.optuna_trial_id <> trials.trial_id
        OR (attempts.optuna_trial_id IS NULL AND attempts.ended_at IS NOT NULL)
    )
""")  # trials are Optuna's here


def _recover_one(
    storage: Storage, connection: Connection, row: Row[Any], most_losses: int, rungs: Sequence[int] = ()
) -> Recovered:
    lease = lease_of(row)
    if lease.fold is not None:
        end_lease(connection, lease, AttemptState.LOST)
        lost_help = Result(AttemptState.LOST, reason="its helper is gone")
        return Recovered(lease=lease, number=None, result=lost_help, set_aside=False)
    trial = _optuna_trial_of(storage, connection, lease, row.optuna_trial_id)
    losses = 1 if trial is not None and _got_further(connection, lease, trial) else row.losses + 1
    set_aside = losses >= most_losses
    if trial is None:
        result = Result(AttemptState.LOST, reason="its worker died before the trial began")
    else:
        result = _end(storage, trial, losses if set_aside else None)
    lost = result.state is AttemptState.LOST
    set_aside = set_aside and lost
    end_lease_and_trial(
        connection, lease, result, set_aside=set_aside, losses=losses if lost else None, rungs=rungs
    )
    number = None if trial is None else trial.number
    _logger.debug(
        "Attempt %s of slot %s on %s: %s", number, row.slot, row.host, result.reason or result.state
    )
    return Recovered(lease=lease, number=number, result=result, set_aside=set_aside)


def _optuna_trial_of(
    storage: Storage, connection: Connection, lease: Lease, optuna_trial_id: int | None
) -> FrozenTrial | None:
    """The lease's Optuna trial; one that was made but never bound is found by its attribute, and bound."""
    try:
        if optuna_trial_id is None:
            optuna_trial_id = _unbound(connection, lease)
            if optuna_trial_id is None:
                return None
            trial = storage.optuna.get_trial(optuna_trial_id)
            bind(connection, lease, optuna_trial_id, trial.number)
            return trial
        return storage.optuna.get_trial(optuna_trial_id)
    except KeyError:  # the study was deleted
        return None


def _unbound(connection: Connection, lease: Lease) -> int | None:
    """Optuna's id of a trial that a worker of version 0.1.0 made for a lease and did not bind to it."""
    return connection.execute(
        _UNBOUND, {"study": lease.study_id, "key": LEASE_ATTRIBUTE, "lease": str(lease.lease_id)}
    ).scalar_one_or_none()


_UNBOUND = text("""
    SELECT max(trials.trial_id) FROM trials
    JOIN trial_user_attributes AS mark ON mark.trial_id = trials.trial_id AND mark.key = :key
    WHERE trials.study_id = :study AND trials.state IN ('RUNNING', 'FAIL') AND mark.value_json = :lease
""")  # trials are Optuna's here


def _got_further(connection: Connection, lease: Lease, trial: FrozenTrial) -> bool:
    """Whether an attempt reported an epoch that the attempt before it had not reached.

    One that reported nothing, or died before it was written, is passed over for the one before.
    """
    reached = trial.last_step
    if reached is None:
        return False
    before = connection.execute(_REACHED_BEFORE, {"trial": lease.trial_id, "lease": lease.lease_id}).scalar()
    return before is None or reached > before


_REACHED_BEFORE = text(f"""
    SELECT max(step) FROM {SCHEMA}.attempts
    JOIN trial_intermediate_values AS reports ON reports.trial_id = attempts.optuna_trial_id
    WHERE attempts.trial_id = :trial AND attempts.lease_id < :lease
    GROUP BY attempts.lease_id ORDER BY attempts.lease_id DESC LIMIT 1
""")


def _end(storage: Storage, trial: FrozenTrial, losses: int | None) -> Result:
    """Fail the attempt as lost, unless its worker finished it before it went.

    Parameters
    ----------
    losses : how many workers it took with it, if it is to be set aside
    """
    if trial.state.is_finished():
        return result_of(trial)
    reason = "lease lost" if losses is None else f"set aside: {losses} workers were lost with it"
    try:
        storage.optuna.set_trial_user_attr(trial_id_of(trial), STATE_ATTRIBUTE, AttemptState.LOST.value)
        storage.optuna.set_trial_user_attr(trial_id_of(trial), REASON_ATTRIBUTE, reason)
        storage.optuna.set_trial_state_values(trial_id_of(trial), optuna_state(AttemptState.LOST))
    except UpdateFinishedTrialError:  # its worker was quicker
        return result_of(storage.optuna.get_trial(trial_id_of(trial)))
    return Result(AttemptState.LOST, reason=reason)
