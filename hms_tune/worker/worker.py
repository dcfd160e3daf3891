"""``hms-tune worker``: what it takes to join a study with this machine's devices.

Data and study are checked first, then one process per slot runs (:mod:`supervisor`). Signals are answered: at
the first, slots hand their trials back and the worker exits 0; at the second, all is over at once.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Literal

from hms_tune.config.acceleration import Acceleration
from hms_tune.config.settings import DEFAULT_CHECKPOINT_SECONDS, DEFAULT_LEASE_SECONDS, dashboard_folder
from hms_tune.config.study_file import StudyFile
from hms_tune.data.store.prepare import prepare
from hms_tune.data.store.store import Store
from hms_tune.database.connect import open_storage, resolve_address
from hms_tune.database.url import parse_address
from hms_tune.errors import RankLostError
from hms_tune.machine.cores import cpu_threads
from hms_tune.machine.stop_signals import STOP_SIGNALS
from hms_tune.reports.dashboard.publisher import PublisherPlan, publishing
from hms_tune.tracking.notify.watch import StudyWatch
from hms_tune.tracking.study_outlook import StudyOutlook
from hms_tune.training.distributed.group import RankPlace, place_from_environment
from hms_tune.training.observer import Observer
from hms_tune.version import __version__
from hms_tune.worker.checkpoint_store.files import open_store
from hms_tune.worker.devices import SlotDevices, device_names, gpu_share, slot_groups
from hms_tune.worker.open_study import open_search
from hms_tune.worker.presence import ImageCount, Presence, announce
from hms_tune.worker.ranks import Companions
from hms_tune.worker.slot import SlotSettings
from hms_tune.worker.slot_process import SlotPlan
from hms_tune.worker.supervisor import Supervisor

_logger = logging.getLogger(__name__)

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
        self._signals = 0
        self._supervisor = Supervisor(observer, self._images, stopping=lambda: self._signals > 0)
        self._place = place_from_environment()
        self._followed: Companions | None = None

    def run(self) -> None:
        """Run until the study is done or this worker is stopped.

        Raises
        ------
        HmsTuneError
            Whatever kept the worker from going on: the data, the database, three failed trials in a row.
        """
        from hms_tune.search.data_check import check_data
        from hms_tune.search.study_check import check_study

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
        if self._supervisor.errors:
            raise self._supervisor.errors[0]

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
                version=__version__,
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
                _logger.info("%s: starting slots %s", search.study.study_name, ", ".join(dict(devices)))
                self._supervisor.run(self._plan(slot, group, devices) for slot, group in devices)
        finally:
            storage.close()

    def _publisher(self) -> PublisherPlan:
        options = self.options
        artifacts = dashboard_folder(options.artifacts, options.home)
        return PublisherPlan(options.study_file.study, self._storage_url, artifacts, options.data_root)

    def _is_hurried(self) -> bool:
        return self._signals > 0 or bool(self._supervisor.errors)

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

    @contextmanager
    def _signals_answered(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield  # a test; there are no signals
            return
        answered = [number for number in STOP_SIGNALS if signal.getsignal(number) != signal.SIG_IGN]  # nohup
        before = {number: signal.signal(number, self._on_signal) for number in answered}
        try:
            yield
        except _Stopped:
            return
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if self._signals and number == signal.SIGHUP:
            return  # a closed terminal and its shell both send one: nobody is in a hurry
        self._signals += 1
        if self._signals > 1:
            self._supervisor.kill()
            if self._followed is not None:
                self._followed.kill()
            os._exit(128 + number)
        if not self._supervisor.has_slots and self._followed is None:
            raise _Stopped
        # Nothing is printed here: this may run in the middle of a line.
        self._supervisor.ask_to_stop()


def _slots_that_pay(options: WorkerOptions, store: Store) -> dict[str, int]:
    """Measure, or look up, how many slots each device takes."""
    from hms_tune.worker.slot_count.measure import probed_slots  # brings timm along

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
