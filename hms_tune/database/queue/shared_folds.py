"""Folds of one trial that several workers train at once.

A trial that was promoted over several folds has them trained by its attempt, one after another from the
first. At each it says where it is and how far helpers may go; a slot that looks for work takes the last fold
that nobody is at. What a helper trained lies in the checkpoint store when its lease ends as complete, and the
attempt takes it in when it comes to that fold; it alone reports to Optuna and ends the trial. A fold is
helped with once: if a helper failed or was lost, the attempt trains it itself. So a helper that dies costs
its trial some time and nothing else, and an attempt that dies leaves what its helpers made to the next one.

All of it happens under the study's row lock, as claims do.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from optuna.trial import FrozenTrial
from sqlalchemy import Connection, select, update

from hms_tune.database.connect import Storage
from hms_tune.database.queue.end import end_lease
from hms_tune.database.queue.lease import Lease, is_lease, lease_lost, lock_lease
from hms_tune.database.tables import attempts, studies, trials
from hms_tune.errors import UnknownStudyError
from hms_tune.trial_state import AttemptState

FoldTaken = Literal["ours", "taken", "helped"]
"""What a trial's attempt finds of a fold: nothing; a helper at it; checkpoints of one who was."""


@dataclass(frozen=True, slots=True)
class HelpedTrial:
    """The trial that a helper trains a fold of: its number, and its last attempt in Optuna."""

    number: int
    attempt: FrozenTrial


def free_fold(connection: Connection, study_id: int) -> tuple[int, int] | None:
    """A trial and one of its folds to help with, of the oldest trial that has one; None: there is none."""
    sharing = connection.execute(
        select(attempts.c.trial_id, attempts.c.fold, attempts.c.shared_until)
        .join_from(attempts, trials, attempts.c.trial_id == trials.c.trial_id)
        .where(
            attempts.c.study_id == study_id,
            attempts.c.ended_at.is_(None),
            attempts.c.shared_until > attempts.c.fold + 1,
            trials.c.requested == "run",
        )
        .order_by(attempts.c.trial_id)
    ).all()
    if not sharing:
        return None
    helped = {
        tuple(row)
        for row in connection.execute(
            select(attempts.c.trial_id, attempts.c.fold).where(
                attempts.c.trial_id.in_([row.trial_id for row in sharing]),
                attempts.c.helps,
                attempts.c.state != AttemptState.REQUEUED,
            )
        )
    }
    for row in sharing:
        for fold in range(row.shared_until - 1, row.fold, -1):
            if (row.trial_id, fold) not in helped:
                return row.trial_id, fold
    return None


def take_fold(storage: Storage, lease: Lease, fold: int, until: int) -> FoldTaken:
    """Come to a fold as the trial's attempt, and let helpers have those after it. Safe to repeat.

    Parameters
    ----------
    until : helpers may take the folds before this one

    Raises
    ------
    LeaseLostError
        If another worker has taken the trial.
    """
    with storage.transaction() as connection:
        connection.execute(
            select(studies.c.study_id)
            .where(studies.c.study_id == lease.study_id)
            .with_for_update(key_share=True)
        )
        lock_lease(connection, lease)
        connection.execute(update(attempts).where(is_lease(lease)).values(fold=fold, shared_until=until))
        helpers = set(
            connection.execute(
                select(attempts.c.state).where(
                    attempts.c.trial_id == lease.trial_id, attempts.c.helps, attempts.c.fold == fold
                )
            ).scalars()
        )
    if AttemptState.RUNNING in helpers:
        return "taken"
    return "helped" if helpers else "ours"


def helped_trial(storage: Storage, lease: Lease) -> HelpedTrial:
    """The trial that a lease on one fold helps.

    Raises
    ------
    UnknownStudyError
        If the study was deleted.
    """
    with storage.statements() as connection:
        row = connection.execute(
            select(trials.c.number, trials.c.last_optuna_trial_id).where(trials.c.trial_id == lease.trial_id)
        ).one_or_none()
    try:
        if row is not None:
            return HelpedTrial(row.number, storage.optuna.get_trial(row.last_optuna_trial_id))
    except KeyError:
        pass
    raise UnknownStudyError("the study was deleted", where=str(lease.study_id))


def end_help(storage: Storage, lease: Lease, state: AttemptState) -> None:
    """End a lease on one fold. Safe to repeat after an outage.

    Parameters
    ----------
    state : complete: the whole fold is in the checkpoint store; requeued: another helper may go on with it;
        failed: the trial's attempt is to train it

    Raises
    ------
    LeaseLostError
        If it was taken away meanwhile; nothing is written.
    """
    with storage.transaction() as connection:
        before = connection.execute(
            select(attempts.c.state).where(is_lease(lease)).with_for_update()
        ).scalar_one_or_none()
        if before in (None, AttemptState.LOST):
            raise lease_lost(lease)
        if before is AttemptState.RUNNING:
            end_lease(connection, lease, state)
