"""A slot in a process that lives long: imports, CUDA's start and the data's upload are paid once."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from types import FrameType

from hms_tune.config.acceleration import Acceleration, AccelerationSettings
from hms_tune.config.settings import DEFAULT_CHECKPOINT_SECONDS
from hms_tune.config.study_file import StudyFile
from hms_tune.config.trial import TrialConfig
from hms_tune.errors import HmsTuneError, RankLostError
from hms_tune.machine.stop_signals import leave_signals_to_the_worker
from hms_tune.training.distributed.group import RankPlace
from hms_tune.training.events import Event
from hms_tune.training.observer import Observer, TrialInfo
from hms_tune.worker.pipe import PipeLogHandler, PipeObserver, SlotFailed
from hms_tune.worker.slot import SlotSettings
from hms_tune.worker.stop import GRACE_S, Stop

ORPHAN_S = 20.0
"""A slot without its supervisor hands its trial back, and is gone after this many seconds at the latest."""


@dataclass(frozen=True, slots=True)
class SlotPlan:
    """All a slot process needs; it crosses to the process over a pipe, so the password stays out of sight.

    ``companions`` are the devices of further ranks that the supervisor starts beside it; ``ranks`` says which
    rank the process is, where it is one of several.
    """

    study_json: str
    storage_url: str = field(repr=False)
    data_root: Path
    artifacts: str | Path
    home: Path
    device: str
    memory_share: float
    acceleration: Acceleration
    threads: int | None
    worker_id: str
    slot: str
    settings: SlotSettings
    checkpoint_s: float = DEFAULT_CHECKPOINT_SECONDS
    gpus: float = 0.0
    companions: tuple[str, ...] = ()
    ranks: RankPlace | None = None


def slot_main(plan: SlotPlan, pipe: Connection) -> None:
    """Run the slot; the process's exit status is 0 when it ended as it should, 1 at an error it told."""
    stop = Stop()
    _listen_to_supervisor(pipe, stop)
    teller = PipeObserver(pipe)
    logging.basicConfig(level=logging.WARNING, handlers=[PipeLogHandler(teller)], force=True)
    logging.getLogger("hms_tune").setLevel(logging.INFO)
    status = 0
    try:
        _run(plan, stop, teller)
    except RankLostError as error:  # a new start mends it
        logging.getLogger(__name__).warning("Slot %s: %s", plan.slot, error)
        status = 1
    except HmsTuneError as error:
        teller.send(SlotFailed(error))
        status = 1
    # All is closed by now, and the interpreter would take seconds to take torch apart.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _listen_to_supervisor(pipe: Connection, stop: Stop) -> None:
    """The supervisor alone decides."""
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
        done.wait(GRACE_S)
        os.kill(os.getpid(), signal.SIGUSR1)
        if orphaned:
            done.wait(ORPHAN_S - GRACE_S)
            os._exit(1)

    threading.Thread(target=listen, name="supervisor", daemon=True).start()


def _run(plan: SlotPlan, stop: Stop, teller: PipeObserver) -> None:
    import torch
    from optuna.exceptions import ExperimentalWarning

    from hms_tune.data.store.prepare import prepare
    from hms_tune.database.connect import open_patiently
    from hms_tune.database.queue.lease import Holder
    from hms_tune.machine.device import resolve_device
    from hms_tune.machine.json_cache import JsonCache
    from hms_tune.machine.processes import this_process
    from hms_tune.search.memory_check import check_memory
    from hms_tune.studies.record_writer import Place, TrialRecorder
    from hms_tune.studies.totals import best_of_study
    from hms_tune.tracking.observers import trackers
    from hms_tune.training.cross_validation import CrossValidation
    from hms_tune.training.distributed.group import join
    from hms_tune.training.distributed.ranks import ALONE
    from hms_tune.training.rank_trials import dismiss, lead_trial
    from hms_tune.training.workspace import Workspace
    from hms_tune.worker.checkpoint_store.checkpoints import Artifacts
    from hms_tune.worker.open_study import join_search
    from hms_tune.worker.slot import Slot

    warnings.filterwarnings("ignore", category=ExperimentalWarning)
    if plan.threads is not None:
        torch.set_num_threads(plan.threads)
    study_file = StudyFile.from_json(plan.study_json)
    device = resolve_device(plan.device)
    store = prepare(plan.data_root)
    group = None if plan.ranks is None else join(plan.ranks, device)
    workspace = Workspace(
        store,
        device,
        _acceleration(plan, study_file),
        ranks=ALONE if group is None else group.ranks,
        share=plan.memory_share,
        ratios=JsonCache(plan.home / "memory.json"),
    )
    check_memory(study_file, workspace.plan)
    storage = open_patiently(plan.storage_url, hurried=lambda: stop.requested)
    best = best_of_study(storage, study_file.study)
    observers: list[Observer] = [teller, *trackers(study_file, plan.home, best=best)]
    search = storage.through_outages(lambda: join_search(storage, study_file))
    place = Place(plan.device, plan.gpus, store.manifest.digest)
    others = tuple(observers)
    observers.append(
        TrialRecorder(storage, search.study_id, place, run_url=lambda trial: run_url(others, trial))
    )

    def train(config: TrialConfig, directory: Path) -> Iterator[Event]:
        trial = CrossValidation(
            config,
            workspace,
            device,
            directory=directory,
            checkpoint_every_s=plan.checkpoint_s,
            checkpoint_now=lambda: stop.requested,
        )
        return trial.run() if group is None else lead_trial(group, trial)

    def admit(config: TrialConfig) -> None:
        workspace.plan(config).require()

    try:
        Slot(
            storage,
            search,
            Holder(plan.worker_id, plan.slot, this_process(), plan.gpus),
            train=train,
            admit=admit,
            artifacts=Artifacts.at(plan.artifacts, plan.home / "scratch", study_file.study),
            observers=observers,
            stop=stop,
            settings=plan.settings,
        ).run()
    finally:
        if group is not None:
            dismiss(group)
        for observer in observers:
            observer.close()
        storage.close()


def _acceleration(plan: SlotPlan, study_file: StudyFile) -> AccelerationSettings:
    """How steps may be run; what is compiled is kept for the next slot."""
    home = plan.home
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(home / "compiled"))
    trials = study_file.budget.trials or 100
    return AccelerationSettings(plan.acceleration, home / "steps.json", trials_to_come=trials)


def run_url(others: Sequence[Observer], trial: TrialInfo) -> str | None:
    """Where a trial is tracked; an observer that knows has ``url_of``."""
    told = (each.url_of(trial) for each in others if hasattr(each, "url_of"))
    return next((url for url in told if url), None)
