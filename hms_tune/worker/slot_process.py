"""The process of a slot. It runs all its trials, so imports, CUDA and the data are loaded once."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Sequence
from dataclasses import replace
from multiprocessing.connection import Connection
from types import FrameType

from optuna.exceptions import ExperimentalWarning

from hms_tune.database.connect import open_patiently
from hms_tune.database.connection.retry import Patience, as_storage_error
from hms_tune.database.queue.lease import Holder
from hms_tune.database.queue.study_queue import StudyQueue
from hms_tune.errors import HmsTuneError, RankLostError, RewoundError
from hms_tune.machine.child_processes import importing
from hms_tune.machine.processes import this_process
from hms_tune.machine.stop_signals import leave_signals_to_the_worker
from hms_tune.studies.record_writer import Equipment, TrialRecorder
from hms_tune.studies.totals import best_of_study
from hms_tune.tracking.observers import trackers
from hms_tune.training.observer import Observer, TrialInfo
from hms_tune.worker.attempt import SlotSetup
from hms_tune.worker.checkpoint_store.best_score import BestScore
from hms_tune.worker.checkpoint_store.checkpoints import Artifacts
from hms_tune.worker.checkpoint_store.open import open_store
from hms_tune.worker.checkpoint_store.predictions import KeptPredictions
from hms_tune.worker.confirmation.judge import RaceJudge
from hms_tune.worker.open_study import join_search
from hms_tune.worker.options import SlotPlan
from hms_tune.worker.pipe import PipeObserver, SlotFailed, log_to_pipe
from hms_tune.worker.slot import Slot
from hms_tune.worker.stop import ORPHAN_S, STEP_GRACE_S, Stop


def slot_main(plan: SlotPlan, pipe: Connection) -> None:
    """Run the slot. The exit status is 0 if it ended as it should, else 1 and the supervisor heard why."""
    stop = Stop()
    _listen_to_supervisor(pipe, stop)
    supervisor = PipeObserver(pipe)
    log_to_pipe(supervisor)
    logging.getLogger("hms_tune").setLevel(logging.INFO)
    status = 0
    try:
        _run(plan, stop, supervisor)
    except (RankLostError, RewoundError) as error:  # a new start fixes it
        logging.getLogger(__name__).warning("Slot %s: %s", plan.slot, error)
        status = 1
    except HmsTuneError as error:
        supervisor.send(SlotFailed(error))
        status = 1
    except Exception as error:
        told = as_storage_error(error)
        if told is None:
            raise
        supervisor.send(SlotFailed(told))
        status = 1
    # All is closed by now, and the interpreter would take seconds to take torch apart.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _listen_to_supervisor(pipe: Connection, stop: Stop) -> None:
    """Stop when the supervisor says so, or is gone; signals are the supervisor's to answer."""
    leave_signals_to_the_worker()

    def cut(_signal: int, _frame: FrameType | None) -> None:
        stop.cut()

    signal.signal(signal.SIGUSR1, cut)

    def listen() -> None:
        orphaned = False
        try:
            pipe.recv()
        except (EOFError, OSError):  # the supervisor is gone
            orphaned = True
        stop.request()
        done = threading.Event()
        done.wait(STEP_GRACE_S)
        os.kill(os.getpid(), signal.SIGUSR1)
        if orphaned:
            done.wait(ORPHAN_S - STEP_GRACE_S)
            os._exit(1)

    threading.Thread(target=listen, name="supervisor", daemon=True).start()


def _run(plan: SlotPlan, stop: Stop, supervisor: PipeObserver) -> None:
    """Open the device, the database and the trackers, run trials, close all."""
    logging.getLogger(__name__).info("Slot %s: loading PyTorch, and opening %s", plan.slot, plan.device)
    with importing(f"slot {plan.slot}"):
        from hms_tune.worker.trainer import Trainer  # brings timm along, which the supervisor does without

    warnings.filterwarnings("ignore", category=ExperimentalWarning)
    options, study_file = plan.options, plan.options.study_file
    trainer = Trainer(plan, stop)
    patience = Patience(is_stopping=lambda: stop.requested, who=f"Slot {plan.slot}")
    storage = open_patiently(plan.storage_url, patience)
    equipment = Equipment(plan.device, plan.gpus, trainer.data_digest)
    best = best_of_study(storage, study_file.study)
    watchers = (supervisor, *trackers(study_file, options.home, equipment=equipment, best=best))
    # This process has opened the data itself, which may have changed since the worker looked.
    data = None if plan.data is None else replace(plan.data, digest=trainer.data_digest)
    search = storage.through_outages(lambda: join_search(storage, study_file, data=data))
    checkpoint_store = open_store(options.artifacts)
    kept = KeptPredictions(checkpoint_store, study_file.study)
    judge = RaceJudge(storage, search.study_id, study_file, checkpoint_store)
    records = TrialRecorder(
        storage,
        search.study_id,
        equipment,
        run_url=lambda trial: run_url(watchers, trial),
        keep=lambda trial, predictions: kept.keep(trial.trial, predictions),
        completed=BestScore(storage, search.study_id, kept).update,
    )
    setup = SlotSetup(
        queue=StudyQueue(
            storage,
            search.study,
            search.study_id,
            Holder(plan.worker_id, plan.slot, this_process(), plan.gpus),
            lease_s=options.lease_s,
            max_trials=options.max_trials,
            promotion=search.promotion,
        ),
        search=search,
        train=trainer.train,
        train_fold=trainer.train_fold if trainer.is_alone else None,
        helping_observers=(supervisor,),
        admit=trainer.admit,
        artifacts=Artifacts.at(options.artifacts, options.home / "scratch", study_file.study),
        observers=(*watchers, records),
        stop=stop,
        before_claim=judge.judge if search.confirms else lambda: None,
    )
    try:
        Slot(setup).run()
    finally:
        trainer.dismiss_ranks()
        for observer in setup.observers:
            observer.close()
        storage.close()


def run_url(observers: Sequence[Observer], trial: TrialInfo) -> str | None:
    """Where a trial is tracked; an observer that knows has ``url_of``."""
    urls = (each.url_of(trial) for each in observers if hasattr(each, "url_of"))
    return next((url for url in urls if url), None)
