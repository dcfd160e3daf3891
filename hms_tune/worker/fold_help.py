"""Help for a trial of another slot: one fold, trained alone."""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager

from hms_tune.database.connection.retry import Patience, is_of_the_database
from hms_tune.database.queue.lease import Lease, LeaseKeeper
from hms_tune.database.queue.shared_folds import HelpedTrial
from hms_tune.errors import ArtifactError, LeaseLostError, StorageAwayError
from hms_tune.training.events import CheckpointWritten, FoldEnded
from hms_tune.training.observer import TrialInfo
from hms_tune.trial_state import AttemptState
from hms_tune.worker.attempt import SlotSetup
from hms_tune.worker.checkpoint_store.checkpoints import FLUSH_S, STORE_S, AttemptFiles
from hms_tune.worker.results import failed_result, free_memory
from hms_tune.worker.stop import StepCut

_logger = logging.getLogger(__name__)


class FoldHelp:
    """Trains one fold and leaves it in the checkpoint store, where the trial's attempt finds it.

    Whatever goes wrong here is no fault of the trial's: its attempt trains the fold itself then.

    Parameters
    ----------
    lease, fold : the lease on the fold, and its number
    keeper : renews the lease
    """

    def __init__(self, setup: SlotSetup, lease: Lease, fold: int, keeper: LeaseKeeper) -> None:
        self._setup, self._lease, self._fold, self._keeper = setup, lease, fold, keeper
        self._kl: float | None = None

    def run(self) -> None:
        """Help, and write how that ended.

        Raises
        ------
        LeaseLostError
            If the lease was lost, or the trial has ended elsewhere.
        """
        setup = self._setup
        helped = setup.through_outages(lambda: setup.queue.helped(self._lease))
        trial = self._info(helped)
        for observer in setup.helping_observers:
            observer.trial_started(trial)
        state, reason = AttemptState.LOST, None
        try:
            state, reason = self._outcome(trial)
            setup.through_outages(lambda: setup.queue.end_help(self._lease, state))
        except (LeaseLostError, StorageAwayError):
            state = AttemptState.LOST
            raise
        finally:
            for observer in setup.helping_observers:
                observer.trial_ended(trial, state, self._kl, reason)

    def _info(self, helped: HelpedTrial) -> TrialInfo:
        attempt = helped.attempt
        return TrialInfo(
            study=self._setup.search.study.study_name,
            trial=helped.number,
            attempt=helped.number,
            config=self._setup.search.suggest(attempt),
            params=attempt.params,
            slot=self._setup.queue.holder.slot,
            job_type="fold",
        )

    def _outcome(self, trial: TrialInfo) -> tuple[AttemptState, str | None]:
        try:
            self._setup.admit(trial.config)
            if not self._setup.artifacts.has(trial.trial):
                return AttemptState.FAILED, "the trial's checkpoints are in another store"
            with self._files(trial.trial) as files:
                return self._trained(trial, files)
        except (LeaseLostError, StorageAwayError):
            raise
        except StepCut:
            return AttemptState.REQUEUED, "the worker was asked to stop"
        except Exception as error:
            if is_of_the_database(error):
                raise
            free_memory()
            reason = failed_result(error, trial, redraws=False).reason
            _logger.warning("Fold %d of trial %d: %s; its attempt trains it", self._fold, trial.trial, reason)
            return AttemptState.FAILED, reason

    def _trained(self, trial: TrialInfo, files: AttemptFiles) -> tuple[AttemptState, str | None]:
        setup = self._setup
        assert setup.train_fold is not None
        events = setup.train_fold(trial.config, files.directory, self._fold)
        is_whole = False
        while True:
            with setup.stop.step():
                event = next(events, None)
            if event is None:
                break
            if isinstance(event, FoldEnded):
                self._kl = event.kl
            if isinstance(event, CheckpointWritten):
                files.uploads.offer(event.path)
                is_whole = self._kl is not None
            for observer in setup.helping_observers:
                observer.event(trial, event)
            self._keeper.check()
            requested = self._keeper.requested(fresh_s=setup.look_s)
            leaves = isinstance(event, CheckpointWritten) and setup.stop.requested
            if not is_whole and (requested != "running" or leaves):
                files.uploads.flush(most_s=FLUSH_S)
                return AttemptState.REQUEUED, f"requeued: {requested}"
        stored = is_whole and files.uploads.flush(most_s=STORE_S)
        if not stored:
            raise ArtifactError("the fold could not be stored", where=f"fold {self._fold}")
        return AttemptState.COMPLETE, None

    def _files(self, trial: int) -> AbstractContextManager[AttemptFiles]:
        return self._setup.artifacts.files_of(
            trial,
            self._lease.lease_id,
            fold=self._fold,
            allowed=lambda: self._keeper.certain,
            patience=Patience(most_s=STORE_S, is_stopping=lambda: self._setup.stop.requested),
        )
