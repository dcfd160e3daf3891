"""One place on a device where trials run one after another.

::

    recover the trials of dead workers   database/queue/recovery.py
    claim a trial                        database/queue/claim.py
    run one attempt of it                worker/attempt.py
    or help another's with one fold      worker/fold_help.py
    remove checkpoints of ended trials   worker/checkpoint_store/checkpoints.py
"""

from __future__ import annotations

import logging
import uuid

from hms_tune.database.queue.claim import Refusal
from hms_tune.database.queue.lease import Lease, seconds_awake_or_asleep
from hms_tune.errors import LeaseLostError, StorageAwayError
from hms_tune.trial_state import ENDED, AttemptState
from hms_tune.worker.attempt import AttemptRun, SlotSetup, start_attempt
from hms_tune.worker.fold_help import FoldHelp
from hms_tune.worker.results import ConsecutiveFailures

_logger = logging.getLogger(__name__)


class Slot:
    """Runs trials until none is left, or until it is asked to stop."""

    def __init__(self, setup: SlotSetup) -> None:
        self._setup = setup
        self._failures = ConsecutiveFailures(setup.search.study.study_name, setup.queue.holder.slot)
        self._refusal: Refusal | None = None
        self._orphans_ended = False
        setup.queue.patience.is_stopping = lambda: setup.stop.requested

    def run(self) -> int:
        """Run trials; returns how many ended here (complete, pruned or failed).

        Raises
        ------
        TrainingError
            After three failed trials in a row.
        MemoryPlanError
            After twenty infeasible draws in a row.
        StorageAwayError
            If the database stayed away for too long.
        RankLostError
            After an attempt was lost because another of its ranks is gone; its trial waits for the next.
        ArtifactError
            If the checkpoints of a trial that is to go on stayed out of reach.
        PretrainedError
            After a trial was requeued because its weights are out of reach.
        """
        ended = 0
        while not self._setup.stop.requested:
            try:
                self._recover()
                self._setup.through_outages(self._setup.before_claim)
                asked_at = seconds_awake_or_asleep()
                claimed = self._claim()
                if isinstance(claimed, Lease):
                    ended += self._run_attempt(claimed, asked_at)
                elif not self._wait(claimed):
                    self._setup.through_outages(self._remove_checkpoints)
                    break
            except StorageAwayError as error:
                if not self._setup.stop.wait(0.0):
                    raise
                _logger.warning("%s: nothing could be requeued; leases end by themselves", error.what)
        return ended

    def _recover(self) -> None:
        if not self._orphans_ended:
            self._setup.through_outages(self._setup.queue.end_orphans)
            self._orphans_ended = True
        for recovered in self._setup.through_outages(self._setup.queue.recover):
            if recovered.lease.fold is not None:
                _logger.warning(
                    "The helper of fold %d is gone; the trial's own attempt trains the fold",
                    recovered.lease.fold,
                )
                continue
            _logger.warning(
                "Attempt %s lost its worker; %s",
                "?" if recovered.number is None else recovered.number,
                recovered.result.reason if recovered.set_aside else "its trial goes on in a new attempt",
            )

    def _claim(self) -> Lease | Refusal:
        token, helps = uuid.uuid4().hex, self._setup.train_fold is not None
        return self._setup.through_outages(lambda: self._setup.queue.claim(token, helps=helps))

    def _wait(self, refusal: Refusal) -> bool:
        """Wait if that helps; returns whether it does. The log says why once."""
        if refusal is not self._refusal:
            _logger.info("Slot %s: %s", self._setup.queue.holder.slot, refusal.value)
            self._refusal = refusal
        if refusal not in (Refusal.PAUSED, Refusal.OTHERS_RUNNING):
            return False
        self._setup.stop.wait(self._setup.poll_s)
        return True

    def _run_attempt(self, lease: Lease, asked_at: float) -> bool:
        """Run one attempt, or help another with a fold; returns whether its trial ended here.

        Parameters
        ----------
        asked_at : a moment before the lease was granted, of :func:`seconds_awake_or_asleep`
        """
        self._refusal = None
        with self._setup.queue.keep(lease, granted_at=asked_at) as keeper:
            try:
                if lease.fold is not None:
                    FoldHelp(self._setup, lease, lease.fold, keeper).run()
                    return False
                attempt = start_attempt(self._setup, lease)
                run = AttemptRun(self._setup, attempt, keeper)
                result = run.run()
                if result.state.trial_state_after in ENDED or result.state is AttemptState.PAUSED:
                    self._setup.through_outages(self._remove_checkpoints)
            except LeaseLostError as error:
                _logger.warning("%s", error)
                return False
        if run.fatal is not None:
            raise run.fatal
        self._failures.count(result, attempt.number)
        return result.state.trial_state_after in ENDED

    def _remove_checkpoints(self) -> None:
        """Remove the checkpoints of every trial that has ended, except the best complete one's.

        Where those that are left take more than the study's budget, paused trials lose theirs, the least
        promising first. If one is promoted later, it trains from its start.
        """
        artifacts, most = self._setup.artifacts, self._setup.search.checkpoint_bytes
        if present := artifacts.present():
            artifacts.remove(self._setup.queue.ended_trials(present))
        if most is None:
            return
        sizes = artifacts.bytes_by_trial()
        excess = sum(sizes.values()) - most
        if excess <= 0:
            return
        for trial in self._setup.queue.least_promising():
            if excess <= 0:
                break
            if trial in sizes:
                artifacts.remove_stored(trial)
                excess -= sizes[trial]
