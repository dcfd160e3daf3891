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
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from types import FrameType
from typing import Literal

import hms_tune
from hms_tune.config.acceleration import Acceleration
from hms_tune.config.settings import DEFAULT_CHECKPOINT_SECONDS, DEFAULT_LEASE_SECONDS
from hms_tune.config.study_file import StudyFile
from hms_tune.data.prepare import prepare
from hms_tune.data.store import Store
from hms_tune.errors import HmsTuneError, RankLostError, TrainingError
from hms_tune.service.addresses import parse_address
from hms_tune.service.companions import Companions, LocalRanks
from hms_tune.service.devices import SlotDevices, cpu_threads, device_names, gpu_share, slot_groups
from hms_tune.service.messages import LogLine, SlotFailed, TrialEnded, TrialEvent, TrialStarted
from hms_tune.service.object_store import open_store
from hms_tune.service.presence import ImageCount, Presence, announce
from hms_tune.service.publisher import PublisherPlan, publishing
from hms_tune.service.slot import SlotSettings
from hms_tune.service.slot_process import SlotPlan, slot_main
from hms_tune.service.stopping import STOP_SIGNALS
from hms_tune.service.storage import open_storage, resolve_address
from hms_tune.service.study import open_search
from hms_tune.service.watch import StudyWatch
from hms_tune.tracking.observer import Observer
from hms_tune.tracking.outlook import StudyOutlook
from hms_tune.training.rank_group import RankPlace, place_from_environment

_logger = logging.getLogger(__name__)

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
    files too. ``artifacts`` is a folder or ``s3://bucket/prefix``. ``device`` is auto, cpu, or devices
    separated by commas; ``ranks_per_trial`` of them train one trial together. ``slots_per_device`` is a
    number, or auto: as many as measurably pay.
    """

    study_file: StudyFile
    storage: str | None = field(repr=False)
    home: Path
    data_root: Path
    artifacts: str | Path
    device: str = "auto"
    slots_per_device: int | Literal["auto"] = 1
    ranks_per_trial: int = 1
    max_trials: int | None = None
    acceleration: Acceleration = "auto"
    lease_s: float = DEFAULT_LEASE_SECONDS
    checkpoint_s: float = DEFAULT_CHECKPOINT_SECONDS


@dataclass(slots=True)
class _SlotProcess:
    plan: SlotPlan
    process: SpawnProcess
    pipe: Connection
    started: float
    deaths: int = 0
    ranks: LocalRanks | None = None


class Worker:
    """Runs a study's trials on this machine until none is left or it is stopped.

    Parameters
    ----------
    observer : told the stories of all slots, in this process
    progress : opened while the data is prepared; what it yields is told how many of how many files are done
    study_stands : told every few seconds how the whole study stands
    """

    def __init__(
        self,
        options: WorkerOptions,
        observer: Observer,
        *,
        progress: Callable[[], AbstractContextManager[Progress]] = lambda: nullcontext(_ignored),
        study_stands: Callable[[StudyOutlook], None] = lambda outlook: None,
    ) -> None:
        self.options = options
        self.observer = observer
        self.progress = progress
        self.study_stands = study_stands
        self.worker_id = uuid.uuid4().hex[:12]
        self._storage_url = ""
        self._images = ImageCount()
        self._slots: dict[str, _SlotProcess] = {}
        self._place = place_from_environment()
        self._followed: Companions | None = None
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
        open_store(options.artifacts)
        check_study(options.study_file)
        slots = 1 if options.slots_per_device == "auto" else options.slots_per_device
        devices = self._groups(slots)  # wrong ones are refused first
        try:
            with self._signals_answered():
                with self.progress() as told:
                    store = prepare(options.data_root, progress=told)
                if self._place is not None and self._place.rank > 0:
                    self._follow(self._place, devices)
                    return
                check_data(options.study_file, store)
                if options.slots_per_device == "auto" and options.ranks_per_trial == 1 and not self._place:
                    devices = self._groups(_slots_that_pay(options, store))
                self._work(devices)
        finally:
            self.observer.close()
        if self._errors:
            raise self._errors[0]

    def _groups(self, slots_per_device: int | Mapping[str, int]) -> tuple[SlotDevices, ...]:
        options = self.options
        return slot_groups(options.device, slots_per_device, options.ranks_per_trial, place=self._place)

    def _follow(self, place: RankPlace, devices: Sequence[SlotDevices]) -> None:
        """Be a further rank of a trial whose first rank another worker owns."""
        ((slot, (device,)),) = devices
        self._followed = Companions(self._plan(slot, (device,), devices), [(place, device)])
        self._followed.wait()
        if self._followed.error is not None:
            raise self._followed.error
        if self._followed.failed and not self._signals:
            raise RankLostError(
                f"rank {place.rank} ended before its trial did",
                mend="Read this log and the first rank's; torchrun --max-restarts starts all anew",
            )

    def _work(self, devices: Sequence[SlotDevices]) -> None:
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
                devices=tuple(device for _, group in devices for device in group),
            )
            watch = StudyWatch.of(
                storage,
                search.study_id,
                self.worker_id,
                self.options.study_file,
                shown=self.study_stands,
                silent_s=self.options.lease_s,
            )
            published = publishing(self._publisher(), hurried=self._is_hurried)
            with announce(storage, presence, self._images), watch.running(), published:
                self._supervise(devices)
        finally:
            storage.close()

    def _publisher(self) -> PublisherPlan:
        options = self.options
        # The dashboard looks there too; see cli/options.py.
        in_a_bucket = "://" in str(options.artifacts)
        artifacts = options.home / "artifacts" if in_a_bucket else Path(options.artifacts)
        return PublisherPlan(options.study_file.study, self._storage_url, artifacts, options.data_root)

    def _is_hurried(self) -> bool:
        return self._signals > 0 or bool(self._errors)

    def _supervise(self, devices: Sequence[SlotDevices]) -> None:
        _logger.info(
            "%s: starting slots %s", self.options.study_file.study, ", ".join(slot for slot, _ in devices)
        )
        for slot, group in devices:
            if not self._signals:
                self._start(self._plan(slot, group, devices))
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

    def _plan(self, slot: str, group: tuple[str, ...], devices: Sequence[SlotDevices]) -> SlotPlan:
        device, *companions = group
        on_cpu = sum(each.count("cpu") for _, each in devices)
        options = self.options
        return SlotPlan(
            study_json=options.study_file.to_json(),
            storage_url=self._storage_url,
            data_root=options.data_root,
            artifacts=options.artifacts,
            home=options.home,
            device=device,
            memory_share=1.0 / sum(each.count(device) for _, each in devices),
            acceleration=options.acceleration,
            threads=cpu_threads(on_cpu) if device == "cpu" else None,
            worker_id=self.worker_id,
            slot=slot,
            checkpoint_s=options.checkpoint_s,
            settings=SlotSettings(lease_s=options.lease_s, worker_most=options.max_trials),
            gpus=sum(gpu_share(each, [name for _, other in devices for name in other]) for each in group),
            companions=tuple(companions),
            ranks=self._place,
        )

    def _start(self, plan: SlotPlan, deaths: int = 0) -> None:
        context = multiprocessing.get_context("spawn")
        ranks = LocalRanks(plan) if plan.companions else None
        told = plan if ranks is None else replace(plan, ranks=ranks.first)
        ours, theirs = context.Pipe(duplex=True)
        process = context.Process(
            target=slot_main, args=(told, theirs), name=f"slot-{plan.slot}", daemon=True
        )
        process.start()
        theirs.close()
        if ranks is not None:
            ranks.others.watch(process)
        self._slots[plan.slot] = _SlotProcess(plan, process, ours, time.monotonic(), deaths, ranks)

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
                self._images.add(trial, event)
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
        if slot.ranks is not None:
            slot.ranks.others.kill()
            slot.ranks.others.wait()
            if slot.ranks.others.error is not None and not self._signals:
                self._errors.append(slot.ranks.others.error)
                self._ask_to_stop()
        del self._slots[slot.plan.slot]
        code = slot.process.exitcode
        if code == 0 or self._signals or self._errors:
            return
        deaths = 1 if time.monotonic() - slot.started > QUICK_S else slot.deaths + 1
        died = f"slot {slot.plan.slot} died ({_describe(code)})"
        if slot.plan.ranks is not None:
            self._errors.append(
                RankLostError(
                    f"{died}, and its ranks with it", mend="torchrun --max-restarts starts all anew"
                )
            )
            return
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
                if slot.ranks is not None:
                    slot.ranks.others.kill()
            if self._followed is not None:
                self._followed.kill()
            os._exit(128 + number)
        if not self._slots and self._followed is None:
            raise _Stopped
        # Nothing is printed here: this may run in the middle of a line.
        self._ask_to_stop()


def _slots_that_pay(options: WorkerOptions, store: Store) -> dict[str, int]:
    """Measure, or look up, how many slots each device takes."""
    from hms_tune.service.probing import probed_slots  # brings timm along

    return probed_slots(
        options.study_file.space,
        store,
        options.data_root,
        device_names(options.device),
        acceleration=options.acceleration,
        memory=options.home / "slots.json",
    )


class _Stopped(BaseException):
    """A signal arrived before there was a slot to stop."""


def _describe(code: int | None) -> str:
    if code is None:
        return "unknown"
    if code < 0:
        with suppress(ValueError):
            return signal.Signals(-code).name
    return f"exit status {code}"
