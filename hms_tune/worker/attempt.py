"""One attempt, from its lease to its result.

::

    start_attempt    draws its values          database/queue/start.py
    AttemptRun.run   trains, event by event    worker/trainer.py, training/cross_validation.py
                     reports each event        worker/report_queue.py
                     writes how it ended       database/queue/end.py
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from optuna.exceptions import UpdateFinishedTrialError

from hms_tune.config.trial import TrialConfig
from hms_tune.database.connection.retry import Patience, is_of_the_database, through_outages
from hms_tune.database.optuna_trial import CONFIG_HASH_ATTRIBUTE, GAIN_ATTRIBUTE
from hms_tune.database.queue.attempt import Attempt, Result
from hms_tune.database.queue.end import ENDED_IN_DASHBOARD
from hms_tune.database.queue.lease import Lease, LeaseKeeper, Requested
from hms_tune.database.queue.study_queue import StudyQueue
from hms_tune.errors import (
    ArtifactError,
    HmsTuneError,
    LeaseLostError,
    MemoryPlanError,
    PretrainedError,
    RankLostError,
    StorageAwayError,
)
from hms_tune.search.reports import RungWatch
from hms_tune.training.checkpoint import shared_fold_path
from hms_tune.training.events import (
    CheckpointFailed,
    CheckpointWritten,
    CrossValidationEnded,
    EpochEnded,
    Event,
    FoldStarted,
)
from hms_tune.training.observer import Observer, TrialInfo
from hms_tune.trial_state import AttemptState
from hms_tune.worker.checkpoint_store.checkpoints import FLUSH_S, STORE_S, Artifacts, AttemptFiles
from hms_tune.worker.checkpoint_store.uploads import Uploader
from hms_tune.worker.open_study import Search
from hms_tune.worker.report_queue import ReportQueue
from hms_tune.worker.results import (
    STOP_REQUESTED,
    AttemptEvents,
    failed_result,
    free_memory,
    infeasible_result,
    requested_result,
)
from hms_tune.worker.stop import StepCut, Stop

_logger = logging.getLogger(__name__)

T = TypeVar("T")

Train = Callable[[TrialConfig, Path], Iterator[Event]]
"""Trains a configuration, with checkpoints in a directory."""

TrainFold = Callable[[TrialConfig, Path, int], Iterator[Event]]
"""Trains one fold of a configuration alone; its last event is a checkpoint of the whole fold."""

Admit = Callable[[TrialConfig], None]
"""Raises :class:`~hms_tune.errors.MemoryPlanError` if the device has no room for a configuration."""


def admit_all(_config: TrialConfig) -> None:
    """There is room for everything."""


@dataclass(frozen=True, slots=True)
class SlotSetup:
    """All that a slot runs trials with.

    Attributes
    ----------
    queue : where trials come from and results go; tests put one in memory here
    train : trains a configuration; tests put a fake here
    train_fold : trains one fold for another worker's trial; None: this slot helps nobody
    helping_observers : hear of folds that are trained for others
    admit : refuses a configuration that the device has no room for, before observers hear of the trial
    poll_s : how often an idle slot looks for work, s
    before_claim : done before each claim, such as dropping what need not be run
    look_s : how old a running slot's knowledge of what people requested may be, and how long reports may be
        kept to be written together, s
    """

    queue: StudyQueue
    search: Search
    train: Train
    artifacts: Artifacts
    train_fold: TrainFold | None = None
    helping_observers: Sequence[Observer] = ()
    admit: Admit = admit_all
    observers: Sequence[Observer] = ()
    stop: Stop = field(default_factory=Stop)
    before_claim: Callable[[], object] = lambda: None
    poll_s: float = 2.0
    look_s: float = 2.0

    def through_outages(self, work: Callable[[], T]) -> T:
        """Run ``work``, a unit that may be repeated, again until the database is there."""
        return through_outages(work, patience=self.queue.patience)


def start_attempt(setup: SlotSetup, lease: Lease) -> Attempt:
    """Make the Optuna trial of a claimed lease. If the sampler fails, the lease is released first."""
    try:
        return setup.through_outages(lambda: setup.queue.start(lease))
    except Exception as error:
        if not isinstance(error, HmsTuneError) and not is_of_the_database(error):
            setup.through_outages(lambda: setup.queue.release(lease))
        raise


class AttemptRun:
    """Runs one attempt.

    While it is uncertain whether the lease is still held, nothing leaves this process: observers and uploads
    wait, and reports queue up.

    Attributes
    ----------
    fatal : what the slot is to end with after this attempt; None: nothing
    """

    def __init__(self, setup: SlotSetup, attempt: Attempt, keeper: LeaseKeeper) -> None:
        self.fatal: HmsTuneError | None = None
        self._setup = setup
        self._attempt = attempt
        self._keeper = keeper
        self._reporter = setup.search.reporter(attempt.optuna_trial)
        self._events = AttemptEvents()
        self._rungs = RungWatch(setup.search.rungs, setup.search.epochs, passed=attempt.rung)
        self._is_pruned = False
        self._requested: Requested = "running"

    def run(self) -> Result:
        """Run the attempt from its values to its result, which the queue and the observers get."""
        setup = self._setup
        try:
            with setup.queue.keeping_reports(self._attempt, self._keeper):
                result = self._result()
                if "traceback" in result.attributes:
                    free_memory()
                result = setup.through_outages(lambda: setup.queue.end(self._attempt, result))
        except (LeaseLostError, StorageAwayError) as error:
            self._notify_end(AttemptState.LOST, error.what)
            raise
        self._notify_end(result.state, result.reason)
        return result

    def _result(self) -> Result:
        """Train; whatever a trial raises becomes its result, unless the lease or the database is gone."""
        redraws = self._setup.search.redraws
        try:
            return self._evaluate()
        except LeaseLostError:
            raise
        except (RankLostError, ArtifactError, PretrainedError) as error:  # facts about the machine
            self.fatal = error
            state = AttemptState.LOST if isinstance(error, RankLostError) else AttemptState.REQUEUED
            return Result(state, reason=str(error))
        except StepCut:
            return STOP_REQUESTED
        except MemoryPlanError as error:
            return infeasible_result(error, redraws=redraws)
        except UpdateFinishedTrialError:
            # Recovery ends only trials whose lease it ended; otherwise a person did.
            self._keeper.requested(fresh_s=0.0)
            self._keeper.check()
            return Result(AttemptState.FAILED, reason=ENDED_IN_DASHBOARD, attributes={"cause": "person"})
        except Exception as error:
            if is_of_the_database(error):
                raise
            return failed_result(error, self._events.trial, redraws=redraws)

    def _evaluate(self) -> Result:
        setup = self._setup
        config = setup.search.suggest(self._attempt.optuna_trial)
        trial = self._describe(config)
        setup.admit(config)
        self._events.trial = trial
        for observer in setup.observers:
            observer.trial_started(trial)
        with (
            self._files() as files,
            ReportQueue(setup.queue.patience, at_rest=self._write_reports, rest_s=setup.look_s) as reports,
        ):
            try:
                result = self._train(trial, files, reports)
            except LeaseLostError:
                raise
            except (Exception, StepCut):
                reports.flush()  # what it reported before it failed counts
                raise
            reports.flush()
            if result.state in (AttemptState.REQUEUED, AttemptState.PAUSED):
                files.uploads.flush(most_s=FLUSH_S)
            return result

    def _describe(self, config: TrialConfig) -> TrialInfo:
        """Write into Optuna's trial which configuration it is and where it runs."""
        holder, attempt = self._setup.queue.holder, self._attempt
        worker = f"{holder.process.host}:{holder.slot}"
        told: dict[str, Any] = {"worker": worker, CONFIG_HASH_ATTRIBUTE: config.hash}
        gain = self._setup.search.expected_gain(attempt.number)
        if gain is not None:
            told[GAIN_ATTRIBUTE] = gain
        self._setup.queue.describe(attempt, told)
        return TrialInfo(
            study=self._setup.search.study.study_name,
            trial=attempt.trial,
            attempt=attempt.number,
            config=config,
            params=attempt.optuna_trial.params,
            slot=holder.slot,
        )

    def _files(self) -> AbstractContextManager[AttemptFiles]:
        return self._setup.artifacts.files_of(
            self._attempt.trial,
            self._attempt.number,
            allowed=lambda: self._keeper.certain,
            patience=Patience(most_s=STORE_S, is_stopping=lambda: self._setup.stop.requested),
        )

    def _train(self, trial: TrialInfo, files: AttemptFiles, reports: ReportQueue) -> Result:
        """Train, event by event, until the trial ends or is to end."""
        events = self._setup.train(trial.config, files.directory)
        only_replayed = True
        while (event := self._next(events)) is not None:
            only_replayed = only_replayed and getattr(event, "replayed", False)
            self._forward(event, files.uploads)
            if isinstance(event, CrossValidationEnded):
                break
            self._report(event, reports)
            if isinstance(event, FoldStarted) and not event.replayed:
                self._begin_fold(event, files.directory)
            if self._is_pruned:
                return Result(AttemptState.PRUNED, reason="pruned", attributes=self._events.attributes())
            self._keeper.check()
            if self._requested != "running":
                return requested_result(self._requested)
            # A resumed attempt may be past a rung at which it never paused, so it also pauses in a replay.
            is_kept = only_replayed or isinstance(event, CheckpointWritten)
            if is_kept and (rung := self._rungs.reached) is not None:
                attributes = self._events.attributes()
                return Result(AttemptState.PAUSED, reason="paused", attributes=attributes, rung=rung)
            if self._setup.stop.requested and _may_stop_at(event):
                return STOP_REQUESTED
        return self._events.complete_result(self._setup.search.rungs[-1])

    def _begin_fold(self, started: FoldStarted, directory: Path) -> None:
        """Let others train the folds after this one; if a helper trains this one, wait and fetch it."""
        setup, attempt, fold = self._setup, self._attempt, started.fold
        if setup.search.promotion is None or not attempt.rung:
            return
        until = min(self._rungs.next_step // setup.search.epochs, started.folds)
        try:
            taken = setup.queue.take_fold(attempt.lease, fold, until)
        except Exception as error:
            if not is_of_the_database(error):
                raise
            return  # it is away: the fold is trained here, whoever else may be at it
        while taken == "taken" and self._requested == "running" and not setup.stop.wait(setup.poll_s):
            self._keeper.check()
            self._requested = self._keeper.requested(fresh_s=setup.look_s)
            setup.through_outages(setup.queue.recover)
            taken = setup.through_outages(lambda: setup.queue.take_fold(attempt.lease, fold, until))
        if taken == "helped":
            try:
                setup.artifacts.fetch_fold(attempt.trial, fold, shared_fold_path(directory, fold))
            except ArtifactError as error:
                _logger.warning("%s; fold %d is trained here", error, fold)

    def _next(self, events: Iterator[Event]) -> Event | None:
        with self._setup.stop.step():
            return next(events, None)

    def _forward(self, event: Event, uploads: Uploader) -> None:
        """Give an event to the observers and, if it is a checkpoint, to the store."""
        self._events.add(event)
        self._rungs.observe(event)
        if isinstance(event, CheckpointWritten):
            uploads.offer(event.path)
        if self._keeper.certain:
            self._events.forward(self._setup.observers)

    def _report(self, event: Event, reports: ReportQueue) -> None:
        """Report an event, and learn whether the trial is pruned and what people requested.

        Reports are written together where several come within :attr:`SlotSetup.look_s`; what a checkpoint
        holds is written with it. While the database is away the last answer holds; reports are written later.
        """

        def report() -> None:
            self._is_pruned = self._reporter.observe(event) or self._is_pruned
            if isinstance(event, CheckpointWritten) or not self._keeper.heard_within(self._setup.look_s):
                self._write_reports()
            self._requested = self._keeper.requested(fresh_s=self._setup.look_s)

        reports.write(report)

    def _write_reports(self) -> None:
        self._setup.queue.write_reports(self._attempt)

    def _notify_end(self, state: AttemptState, reason: str | None) -> None:
        """Let observers know how the attempt ended, if they heard that it began."""
        events, observers = self._events, self._setup.observers
        if events.trial is None:
            return
        if state is not AttemptState.LOST:
            events.forward(observers)
        told = None if state is AttemptState.COMPLETE else reason
        for observer in observers:
            observer.trial_ended(events.trial, state, events.value, told)


def _may_stop_at(event: Event) -> bool:
    """Whether to stop at this event. Right after an epoch, before its checkpoint, would throw it away."""
    return isinstance(event, CheckpointWritten | CheckpointFailed) or (
        not isinstance(event, EpochEnded) or event.replayed
    )
