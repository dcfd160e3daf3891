"""The queue of one study's trials, as one slot uses it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import optuna
from sqlalchemy import func, select

from hms_tune.database.connect import Storage
from hms_tune.database.connection.retry import Patience
from hms_tune.database.queue import claim, end, recovery, shared_folds, start
from hms_tune.database.queue.attempt import Attempt, Result
from hms_tune.database.queue.claim import Refusal
from hms_tune.database.queue.lease import LEASE_S, Holder, Lease, LeaseKeeper
from hms_tune.database.queue.recovery import MOST_LOSSES, Recovered, SilentLeases
from hms_tune.database.queue.shared_folds import FoldTaken, HelpedTrial
from hms_tune.database.tables import rungs, trials
from hms_tune.search.promotion.rule import Promotion
from hms_tune.trial_state import AttemptState, TrialState


@dataclass(frozen=True, slots=True)
class StudyQueue:
    """One study's queue for one slot. Each method is one unit, which may be repeated after an outage.

    Attributes
    ----------
    lease_s : how long a lease lasts without renewal, s
    max_trials : most trials of the slot's worker, over all its slots; None: no limit
    most_losses : a trial that took this many workers with it is set aside
    promotion : which paused trial goes on, in a study whose trials pause; None: trials do not
    """

    storage: Storage
    study: optuna.Study
    study_id: int
    holder: Holder
    lease_s: float = LEASE_S
    max_trials: int | None = None
    most_losses: int = MOST_LOSSES
    promotion: Promotion | None = None
    _silent: SilentLeases = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_silent", SilentLeases(self.lease_s))

    @property
    def patience(self) -> Patience:
        """How long an absent database is waited for."""
        return self.storage.patience

    @property
    def _rungs(self) -> tuple[int, ...]:
        return () if self.promotion is None else self.promotion.rungs

    def recover(self) -> tuple[Recovered, ...]:
        """End the leases of workers that are gone; see :func:`~hms_tune.database.queue.recovery.recover`."""
        return recovery.recover(
            self.storage,
            self.study_id,
            self.holder.process,
            self._silent,
            most_losses=self.most_losses,
            rungs=self._rungs,
        )

    def end_orphans(self) -> None:
        """End stray trials; see :func:`~hms_tune.database.queue.recovery.end_orphans`."""
        recovery.end_orphans(self.storage, self.study_id)

    def claim(self, token: str, *, helps: bool = False) -> Lease | Refusal:
        """Take the next trial; see :func:`~hms_tune.database.queue.claim.claim`."""
        return claim.claim(
            self.storage,
            self.study_id,
            self.holder,
            lease_s=self.lease_s,
            max_trials=self.max_trials,
            promotion=self.promotion,
            helps=helps,
            token=token,
        )

    def keep(self, lease: Lease, *, granted_at: float) -> LeaseKeeper:
        """Renew a lease during a block."""
        return LeaseKeeper(self.storage, lease, lease_s=self.lease_s, granted_at=granted_at)

    def keeping_reports(self, attempt: Attempt, keeper: LeaseKeeper) -> AbstractContextManager[None]:
        """During a block, keep an attempt's reports until :meth:`write_reports`, or its end, writes them."""
        return self.storage.optuna.keeping_reports(attempt.optuna_trial_id, keeper.renewal)

    def write_reports(self, attempt: Attempt) -> None:
        """Write the reports of an attempt that are kept, and renew its lease with them."""
        self.storage.optuna.write_reports(attempt.optuna_trial_id)

    def start(self, lease: Lease) -> Attempt:
        """Make the Optuna trial of a lease; see :func:`~hms_tune.database.queue.start.begin_attempt`."""
        return start.begin_attempt(self.storage, self.study, lease)

    def release(self, lease: Lease) -> None:
        """Give back a lease for which no Optuna trial was made."""
        end.release(self.storage, lease)

    def describe(self, attempt: Attempt, attributes: Mapping[str, Any]) -> None:
        """Write into the Optuna trial what its attempt is, together with the values that were drawn."""
        self.storage.optuna.set_trial_user_attrs(attempt.optuna_trial_id, attributes)

    def end(self, attempt: Attempt, result: Result) -> Result:
        """Write how an attempt ended; see :func:`~hms_tune.database.queue.end.end_attempt`."""
        return end.end_attempt(self.storage, self.study, attempt, result, rungs=self._rungs)

    def take_fold(self, lease: Lease, fold: int, until: int) -> FoldTaken:
        """Begin a fold of a trial; see :func:`~hms_tune.database.queue.shared_folds.take_fold`."""
        return shared_folds.take_fold(self.storage, lease, fold, until)

    def helped(self, lease: Lease) -> HelpedTrial:
        """The trial that a lease on one fold helps."""
        return shared_folds.helped_trial(self.storage, lease)

    def end_help(self, lease: Lease, state: AttemptState) -> None:
        """Write how help ended; see :func:`~hms_tune.database.queue.shared_folds.end_help`."""
        shared_folds.end_help(self.storage, lease, state)

    def least_promising(self) -> list[int]:
        """The numbers of the trials that wait at a rung, the least advanced and worst first."""
        reached = select(rungs.c.trial_id, func.max(rungs.c.step).label("step")).group_by(rungs.c.trial_id)
        last = reached.subquery()
        with self.storage.statements() as connection:
            rows = connection.execute(
                select(trials.c.number)
                .join_from(trials, last, last.c.trial_id == trials.c.trial_id)
                .join(rungs, (rungs.c.trial_id == last.c.trial_id) & (rungs.c.step == last.c.step))
                .where(trials.c.study_id == self.study_id, trials.c.state == TrialState.PAUSED)
                .order_by(rungs.c.step, rungs.c.estimate.desc())
            )
            return list(rows.scalars())

    def ended_trials(self, among: Collection[int]) -> list[int]:
        """Which of the trials with these numbers have ended, except the best complete one."""
        best = (
            select(trials.c.trial_id)
            .where(trials.c.study_id == self.study_id, trials.c.state == TrialState.COMPLETE)
            .order_by(trials.c.estimate, trials.c.trial_id)
            .limit(1)
            .scalar_subquery()
        )
        statement = select(trials.c.number).where(
            trials.c.study_id == self.study_id,
            trials.c.ended_at.is_not(None),
            trials.c.number.in_(among),
            trials.c.trial_id != func.coalesce(best, 0),
        )
        with self.storage.statements() as connection:
            return list(connection.execute(statement).scalars())
