"""``hms-tune worker``: a supervisor and its slots.

The supervisor computes nothing. It starts one process per slot, shows what they tell, starts a dead one
again, and answers signals: at the first, slots hand their trials back and it exits 0; at the second, all is
over at once.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from types import FrameType

import hms_tune
from hms_tune.config.acceleration import Acceleration
from hms_tune.config.study_file import StudyFile
from hms_tune.data.prepare import prepare
from hms_tune.errors import HmsTuneError, TrainingError
from hms_tune.service.addresses import parse_address
from hms_tune.service.devices import cpu_threads, gpu_share, slot_devices
from hms_tune.service.messages import LogLine, SlotFailed, TrialEnded, TrialEvent, TrialStarted
from hms_tune.service.presence import Presence, announce
from hms_tune.service.slot import SlotSettings
from hms_tune.service.slot_process import SlotPlan, slot_main
from hms_tune.service.storage import open_storage, resolve_address
from hms_tune.service.study import open_search
from hms_tune.tracking.observer import Observer

_logger = logging.getLogger(__name__)

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)  # USR1 is what SLURM sends before the end
MOST_RESTARTS = 4
QUICK_S = 600.0
"""A slot that ran longer than this before it died starts with a clean record."""


Progress = Callable[[int, int], None]


def _ignored(_done: int, _total: int) -> None:
    """Nobody watches the preparation."""


@dataclass(frozen=True, slots=True)
class WorkerOptions:
    """What ``hms-tune worker`` was asked.

    ``storage`` is the database's address; None: the embedded server under ``home``, where tracking keeps its
    files too. ``device`` is auto, cpu, or devices separated by commas.
    """

    study_file: StudyFile
    storage: str | None = field(repr=False)
    home: Path
    data_root: Path
    artifacts: Path
    device: str = "auto"
    slots_per_device: int = 1
    max_trials: int | None = None
    acceleration: Acceleration = "auto"
    lease_s: float = 180.0


@dataclass(slots=True)
class _SlotProcess:
    plan: SlotPlan
    process: SpawnProcess
    pipe: Connection
    started: float
    deaths: int = 0


class Worker:
    """Runs a study's trials on this machine until none is left or it is stopped.

    Parameters
    ----------
    observer : told the stories of all slots, in this process
    progress : opened while the data is prepared; what it yields is told how many of how many files are done
    """

    def __init__(
        self,
        options: WorkerOptions,
        observer: Observer,
        *,
        progress: Callable[[], AbstractContextManager[Progress]] = lambda: nullcontext(_ignored),
    ) -> None:
        self.options = options
        self.observer = observer
        self.progress = progress
        self.worker_id = uuid.uuid4().hex[:12]
        self._storage_url = ""
        self._slots: dict[str, _SlotProcess] = {}
        self._signals = 0
        self._said = False
        self._errors: list[HmsTuneError] = []

    def run(self) -> None:
        """Run until the study is done or this worker is stopped.

        Raises
        ------
        HmsTuneError
            Whatever kept the worker from going on: the data, the database, three failed trials in a row.
        """
        from hms_tune.search.check import check_study
        from hms_tune.search.data_check import check_data

        options = self.options
        if options.storage:
            parse_address(options.storage)
        check_study(options.study_file)
        devices = slot_devices(options.device, options.slots_per_device)
        try:
            with self._signals_answered():
                with self.progress() as told:
                    store = prepare(options.data_root, progress=told)
                check_data(options.study_file, store)
                self._work(devices)
        finally:
            self.observer.close()
        if self._errors:
            raise self._errors[0]

    def _work(self, devices: Sequence[tuple[str, str]]) -> None:
        """Join the study and run its trials. Nothing is written to the database before the data is good."""
        address = resolve_address(self.options.storage, home=self.options.home)
        self._storage_url = address.render_as_string(hide_password=False)
        storage = open_storage(address)
        try:
            search = open_search(storage, self.options.study_file)
            presence = Presence(
                worker_id=self.worker_id,
                study_id=search.study_id,
                version=hms_tune.__version__,
                devices=tuple(device for _, device in devices),
            )
            with announce(storage, presence):
                self._supervise(devices)
        finally:
            storage.close()

    def _supervise(self, devices: Sequence[tuple[str, str]]) -> None:
        for slot, device in devices:
            if not self._signals:
                self._start(self._plan(slot, device, devices))
        while self._slots:
            pipes = {slot.pipe: slot for slot in self._slots.values()}
            for pipe in wait(list(pipes)):
                self._say_once_that_it_stops()
                assert isinstance(pipe, Connection)
                self._hear(pipes[pipe])

    def _say_once_that_it_stops(self) -> None:
        if self._signals and not self._said:
            self._said = True
            _logger.info("Stopping: trials are handed back; a second signal ends at once")

    def _plan(self, slot: str, device: str, devices: Sequence[tuple[str, str]]) -> SlotPlan:
        on_cpu = sum(1 for _, other in devices if other == "cpu")
        options = self.options
        return SlotPlan(
            study_json=options.study_file.to_json(),
            storage_url=self._storage_url,
            data_root=options.data_root,
            artifacts=options.artifacts,
            tracking_folder=options.home,
            device=device,
            acceleration=options.acceleration,
            threads=cpu_threads(on_cpu) if device == "cpu" else None,
            worker_id=self.worker_id,
            slot=slot,
            settings=SlotSettings(lease_s=options.lease_s, worker_most=options.max_trials),
            gpus=gpu_share(device, [other for _, other in devices]),
        )

    def _start(self, plan: SlotPlan, deaths: int = 0) -> None:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe(duplex=True)
        process = context.Process(
            target=slot_main, args=(plan, theirs), name=f"slot-{plan.slot}", daemon=True
        )
        process.start()
        theirs.close()
        self._slots[plan.slot] = _SlotProcess(plan, process, ours, time.monotonic(), deaths)

    def _hear(self, slot: _SlotProcess) -> None:
        """Take one message of a slot, or its end."""
        try:
            message = slot.pipe.recv()
        except (EOFError, OSError):
            self._ended(slot)
            return
        match message:
            case TrialStarted(trial):
                self.observer.trial_started(trial)
            case TrialEvent(trial, event):
                self.observer.event(trial, event)
            case TrialEnded(trial, outcome, value, reason):
                self.observer.trial_ended(trial, outcome, value, reason)
            case LogLine(name, level, text):
                logging.getLogger(name).log(level, "%s", text)
            case SlotFailed(error):
                self._errors.append(error)
                self._ask_to_stop()

    def _ended(self, slot: _SlotProcess) -> None:
        slot.process.join()
        slot.pipe.close()
        del self._slots[slot.plan.slot]
        code = slot.process.exitcode
        if code == 0 or self._signals or self._errors:
            return
        deaths = 1 if time.monotonic() - slot.started > QUICK_S else slot.deaths + 1
        died = f"slot {slot.plan.slot} died ({_describe(code)})"
        if deaths > MOST_RESTARTS:
            self._errors.append(
                TrainingError(
                    f"{died}, {deaths} times in a row", mend="Run hms-tune doctor; look at the system's log"
                )
            )
            self._ask_to_stop()
            return
        pause = 2.0 ** (deaths - 1)
        _logger.warning("%s; it starts again in %.0f s", died, pause)
        # Other slots' stories wait in their pipes meanwhile.
        time.sleep(pause)
        if not self._signals:
            self._start(slot.plan, deaths)

    def _ask_to_stop(self) -> None:
        for slot in self._slots.values():
            with suppress(OSError):
                slot.pipe.send("stop")

    @contextmanager
    def _signals_answered(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield  # a test; there are no signals
            return
        before = {number: signal.signal(number, self._on_signal) for number in STOP_SIGNALS}
        try:
            yield
        except _Stopped:
            return
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        self._signals += 1
        if self._signals > 1:
            for slot in self._slots.values():
                slot.process.kill()
            os._exit(128 + number)
        if not self._slots:
            raise _Stopped
        # Nothing is printed here: this may run in the middle of a line.
        self._ask_to_stop()


class _Stopped(BaseException):
    """A signal arrived before there was a slot to stop."""


def _describe(code: int | None) -> str:
    if code is None:
        return "unknown"
    if code < 0:
        with suppress(ValueError):
            return signal.Signals(-code).name
    return f"exit status {code}"
