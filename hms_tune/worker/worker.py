"""A worker: joins a study with this machine's devices.

It checks data and study, then runs one process per slot (:mod:`~hms_tune.worker.supervisor`). At the first
signal slots hand their trials back and the worker ends; at the second it ends at once.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import replace
from importlib.metadata import version
from types import FrameType

from hms_tune.config.settings import dashboard_folder
from hms_tune.config.study_file import StudyFile
from hms_tune.data.identity import DataIdentity
from hms_tune.data.store.prepare import prepare
from hms_tune.data.store.store import Store, competition_of
from hms_tune.database.connect import Storage, open_storage, resolve_address
from hms_tune.database.connection.retry import as_storage_error
from hms_tune.database.connection.url import parse_address
from hms_tune.database.queries.confirmations import confirmation_progress
from hms_tune.database.rights import missing_grants
from hms_tune.errors import ArtifactError, RankLostError, StorageError
from hms_tune.machine.cores import cpu_threads
from hms_tune.machine.private_folder import is_writable, private_folder
from hms_tune.machine.progress import ProgressCallback
from hms_tune.machine.stop_signals import STOP_SIGNALS
from hms_tune.reports.dashboard.publisher import PublisherPlan, publishing
from hms_tune.studies.totals import has_work
from hms_tune.tracking.notify.watch import StudyWatch
from hms_tune.tracking.study_outlook import StudyOutlook
from hms_tune.training.distributed.group import RankPlace, place_from_environment
from hms_tune.training.observer import Observer
from hms_tune.version import __version__
from hms_tune.worker.checkpoint_store.open import open_store
from hms_tune.worker.confirmation.judge import RaceJudge
from hms_tune.worker.confirmation.request import confirmation_file
from hms_tune.worker.devices import SlotDevices, device_names, gpu_share, slot_groups
from hms_tune.worker.open_study import Search, open_search
from hms_tune.worker.options import SlotPlan, WorkerOptions
from hms_tune.worker.presence import ImageCount, Presence, announce, showing_life, warn_of_other_torch
from hms_tune.worker.ranks import RankProcesses
from hms_tune.worker.supervisor import Supervisor

_logger = logging.getLogger(__name__)


def _no_progress(_done: int, _total: int) -> None:
    """Nobody watches the preparation."""


class Worker:
    """Runs a study's trials on this machine until none is left or it is stopped.

    Parameters
    ----------
    observer : gets the events of all slots, in this process
    progress : opened while the data is prepared; gives what is called with the number of files done and all
    show_study : called every few seconds with the study's progress
    """

    def __init__(
        self,
        options: WorkerOptions,
        observer: Observer,
        *,
        progress: Callable[[], AbstractContextManager[ProgressCallback]] = lambda: nullcontext(_no_progress),
        show_study: Callable[[StudyOutlook], None] = lambda outlook: None,
    ) -> None:
        self.options = options
        self.observer = observer
        self.progress = progress
        self.show_study = show_study
        self.worker_id = _new_id()
        self._notify = options.study_file.tracking.notify  # also for the study that confirms this one
        self._storage_url = ""
        self._images = ImageCount()
        self._signals = 0
        self._supervisor = Supervisor(observer, self._images, stopping=lambda: self._signals > 0)
        self._place = place_from_environment()
        self._own_rank: RankProcesses | None = None
        self._data: DataIdentity | None = None
        self._has_more = False

    def run(self) -> bool:
        """Run until the study is done or this worker is stopped.

        Returns
        -------
        Whether there is more to do, so that a worker should be started again

        Raises
        ------
        HmsTuneError
            Whatever kept the worker from going on: the data, the database, three failed trials in a row.
        """
        from hms_tune.search.data_check import check_data
        from hms_tune.search.study_check import check_study, require_weights

        options = self.options
        # What is wrong with addresses is said before the data is prepared.
        if options.storage:
            parse_address(options.storage)
        with suppress(OSError):  # whoever needs it says so
            private_folder(options.home)
        _check_folders(options)
        check_study(options.study_file)
        require_weights(options.study_file)
        slots = 1 if options.slots_per_device == "auto" else options.slots_per_device
        devices = self._groups(slots)  # wrong ones are refused first
        try:
            with showing_life(options.home), self._answering_signals():
                _logger.info("Preparing the data in %s", options.data_root)
                with self.progress() as progress:
                    store = prepare(options.data_root, progress=progress)
                if self._place is not None and self._place.rank > 0:
                    self._be_a_further_rank(self._place, devices)
                    return self._signals > 0
                self._data = check_data(options.study_file, store)
                if options.slots_per_device == "auto" and options.ranks_per_trial == 1 and not self._place:
                    devices = self._groups(_slots_that_pay(options, store))
                self._work(devices)
        finally:
            self.observer.close()
        if self._supervisor.errors:
            raise self._supervisor.errors[0]
        return self._has_more

    def _groups(self, slots_per_device: int | Mapping[str, int]) -> tuple[SlotDevices, ...]:
        options = self.options
        return slot_groups(options.device, slots_per_device, options.ranks_per_trial, place=self._place)

    def _be_a_further_rank(self, place: RankPlace, devices: Sequence[SlotDevices]) -> None:
        """Run one further rank of trials whose first rank another worker runs."""
        ((slot, (device,)),) = devices
        self._own_rank = RankProcesses(self._plan(slot, (device,), devices), [(place, device)])
        self._own_rank.wait()
        if self._own_rank.error is not None:
            raise self._own_rank.error
        if self._own_rank.failed and not self._signals:
            raise RankLostError(
                f"rank {place.rank} ended before its trial did",
                hint="Read this log and the first rank's; torchrun --max-restarts starts all anew",
            )

    def _work(self, devices: Sequence[SlotDevices]) -> None:
        """Join the study and run its trials. Nothing is written to the database before the data is good."""
        _logger.info("Connecting to the %s", "database" if self.options.storage else "embedded PostgreSQL")
        address = resolve_address(self.options.storage, home=self.options.home)
        self._storage_url = address.render_as_string(hide_password=False)
        storage = open_storage(address)
        try:
            _require_rights(storage)
            search = open_search(storage, self.options.study_file, data=self._data)
            presence = Presence(
                worker_id=self.worker_id,
                study_id=search.study_id,
                version=__version__,
                devices=tuple(device for _, group in devices for device in group),
                torch=version("torch"),
            )
            warn_of_other_torch(storage, presence)
            watch = StudyWatch.of(
                storage,
                search.study_id,
                self.worker_id,
                self.options.study_file,
                notify=self._notify,
                shown=self.show_study,
                silent_s=self.options.lease_s,
            )
            publisher = publishing(self._publisher_plan(), is_stopping=self._is_stopping)
            with announce(storage, presence, self._images), watch.running(), publisher:
                _logger.info("%s: %s", search.study.study_name, _slots_text([slot for slot, _ in devices]))
                self._supervisor.run(self._plan(slot, group, devices) for slot, group in devices)
            following = self._what_follows(storage, search)
        finally:
            storage.close()
        if following is not None:
            _logger.info("%s is over; its leading trials are confirmed", self.options.study_file.study)
            self.options = replace(self.options, study_file=following)
            self.worker_id = _new_id()
            self._work(devices)

    def _what_follows(self, storage: Storage, search: Search) -> StudyFile | None:
        """Find out whether there is more to do; returns the file of the study that confirms this one, if any.

        A database that is away is asked by the next worker.
        """
        name = search.study.study_name
        try:
            if search.confirms:
                artifacts = open_store(self.options.artifacts)
                RaceJudge(storage, search.study_id, self.options.study_file, artifacts).judge()
            self._has_more = has_work(storage, search.study_id)
            if self._has_more or search.confirms:
                return None
            if self._is_stopping():
                with storage.transaction() as connection:
                    progress = confirmation_progress(connection, name)
                self._has_more = progress is not None and not progress.is_over
                return None
            return confirmation_file(storage, name)
        except Exception as error:
            told = as_storage_error(error)
            if told is None:
                raise
            _logger.warning("Cannot tell whether the study has more to do: %s", told)
            self._has_more = True
            return None

    def _publisher_plan(self) -> PublisherPlan:
        options = self.options
        artifacts = dashboard_folder(options.artifacts, options.home)
        root = competition_of(options.data_root)
        return PublisherPlan(options.study_file.study, self._storage_url, artifacts, root)

    def _is_stopping(self) -> bool:
        return self._signals > 0 or bool(self._supervisor.errors)

    def _plan(self, slot: str, group: tuple[str, ...], devices: Sequence[SlotDevices]) -> SlotPlan:
        names = [name for _, other in devices for name in other]
        return SlotPlan(
            options=self.options,
            storage_url=self._storage_url,
            worker_id=self.worker_id,
            slot=slot,
            devices=group,
            memory_share=1.0 / names.count(group[0]),
            gpus=sum(gpu_share(name, names) for name in group),
            threads=cpu_threads(names.count("cpu")) if group[0] == "cpu" else None,
            place=self._place,
            data=self._data,
        )

    @contextmanager
    def _answering_signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield  # a test; there are no signals
            return
        answered = [number for number in STOP_SIGNALS if signal.getsignal(number) != signal.SIG_IGN]  # nohup
        before = {number: signal.signal(number, self._on_signal) for number in answered}
        try:
            yield
        except _Stopped:
            self._has_more = True
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
            if self._own_rank is not None:
                self._own_rank.kill()
            os._exit(128 + number)
        if not self._supervisor.has_begun and self._own_rank is None:
            raise _Stopped
        # Nothing is printed here: this may run in the middle of a line.
        self._supervisor.ask_to_stop()


def _new_id() -> str:
    return uuid.uuid4().hex[:12]


def _check_folders(options: WorkerOptions) -> None:
    """See that checkpoints can be written, here and where the fleet shares them.

    Raises
    ------
    ArtifactError
        If the folder or the store cannot be written to.
    UsageError
        If the store's address is one that cannot be used.
    """
    if not is_writable(options.home):
        raise ArtifactError(
            "cannot be written to", where=options.home, hint="Set HMS_TUNE_HOME to a folder of yours"
        )
    open_store(options.artifacts).check_writable()


def _require_rights(storage: Storage) -> None:
    """Raise StorageError if the user lacks a right on a table: some trial would fail for want of it."""
    with storage.transaction() as connection:
        grants = missing_grants(connection, "work")
    if grants:
        raise StorageError(
            "the database user may run no search there", where=storage.address, hint="; ".join(grants)
        )


def _slots_text(slots: Sequence[str]) -> str:
    if len(slots) == 1:
        return f"runs one trial at a time, on {slots[0]}"
    return f"runs {len(slots)} trials at a time, on {', '.join(slots)}"


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
    """A signal arrived before there was work to hand back."""
