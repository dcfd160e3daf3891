"""Probes of a device: processes that train a configuration for some seconds, all from a common start."""

from __future__ import annotations

import json
import logging
import os
import resource
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from hms_tune.config.acceleration import Acceleration, AccelerationSettings
from hms_tune.config.ranges import Group
from hms_tune.config.trial import TrialConfig
from hms_tune.data.store.store import Store
from hms_tune.errors import HmsTuneError, TrainingError
from hms_tune.machine.child_processes import ChildProcess
from hms_tune.machine.cores import cpu_threads, processor_name
from hms_tune.search.typical_config import largest_config, middle_config
from hms_tune.worker.slot_count.choose import Measured, NoRoomError, Work, most_slots, slots_that_pay

PATIENCE_S = 600.0
"""A probe that is silent for longer is taken to be stuck."""

_logger = logging.getLogger(__name__)

_COMMON_START_S = 0.3
_CPU_BATCHES = 4
"""Batches in an epoch of a probe on the CPU, where making the images of all rows would take minutes."""


@dataclass(frozen=True, slots=True)
class ProbePlan:
    """What a probe trains, and how. ``seconds``: how long at each start."""

    middle: TrialConfig
    largest: TrialConfig
    data_root: Path
    device: str
    acceleration: Acceleration = "auto"
    seconds: float = 6.0


@dataclass(slots=True)
class _Probe:
    process: ChildProcess

    def receive(self) -> Any:
        """The probe's next message.

        Raises
        ------
        NoRoomError
            If it ran out of memory, or was killed.
        HmsTuneError
            If it failed otherwise, or is stuck.
        """
        try:
            if not self.process.pipe.poll(PATIENCE_S):
                raise TrainingError(f"a probe was silent for {PATIENCE_S:.0f} s")
            kind, content = self.process.pipe.recv()
        except (EOFError, OSError) as error:
            raise self.process.not_begun() or NoRoomError("a probe died") from error
        if kind == "no room":
            raise NoRoomError(content)
        if kind == "failed":
            raise TrainingError(content)
        return content


class DeviceProbes:
    """Probes on one device; the first is started at once, since only a process of its own may touch a GPU."""

    def __init__(self, plan: ProbePlan) -> None:
        self._plan = plan
        self._probes: list[_Probe] = []
        self._ready = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        for probe in self._probes:
            probe.process.kill()
        for probe in self._probes:
            probe.process.join()
            probe.process.pipe.close()

    def device_name(self) -> str:
        """What the device calls itself."""
        self._start()
        return str(self._probes[0].receive())

    def add(self) -> None:
        """Make one more probe ready. The first also trains the largest configuration for a moment."""
        if self._ready == len(self._probes):
            self._start()
            self._probes[-1].receive()
        probe = self._probes[-1]
        probe.process.pipe.send(self._ready == 0)
        probe.receive()
        self._ready += 1

    def measure(self) -> Measured:
        """Let all probes train at once, each with its share of the processor's cores."""
        threads = cpu_threads(len(self._probes)) if self._plan.device == "cpu" else None
        start = time.monotonic() + _COMMON_START_S
        for probe in self._probes:
            probe.process.pipe.send((start, threads))
        measured = [probe.receive() for probe in self._probes]
        rate = sum(images / seconds for images, seconds, _ in measured)
        shares = [memory for _, _, memory in measured]
        together = sum(shares) if self._plan.device == "cpu" else max(shares)
        return Measured(len(self._probes), rate, together)

    def _start(self) -> None:
        self._probes.append(_Probe(ChildProcess(probe_main, self._plan, name="a probe")))


def probed_slots(
    space: Group,
    store: Store,
    data_root: Path,
    devices: Sequence[str],
    *,
    acceleration: Acceleration,
    memory: Path,
) -> dict[str, int]:
    """How many slots each device should have for a study, measured or remembered.

    Parameters
    ----------
    space : the study's
    devices : their names, such as ``cuda:0``
    memory : JSON file of what was measured before; devices of one name share an entry
    """
    work = Work(middle_config(space), largest_config(space), store.manifest.digest, acceleration)
    found = {}
    for device in devices:
        _logger.info("Measuring how many slots pay on %s", device)
        plan = ProbePlan(work.middle, work.largest, data_root, device, acceleration)
        found[device] = slots_that_pay(DeviceProbes(plan), work, most=most_slots(), memory=memory)
    return found


def probe_main(plan: ProbePlan, pipe: Connection) -> None:
    """The process: sends the device's name, gets ready when asked, and trains whenever a start is set."""
    import torch

    try:
        with suppress(EOFError, OSError):  # the worker is gone
            _serve(plan, pipe)
    except torch.OutOfMemoryError as error:
        pipe.send(("no room", str(error).splitlines()[0]))
    except HmsTuneError as error:
        pipe.send(("failed", str(error)))
    except Exception as error:  # noqa: BLE001  (whatever it is, the worker goes on with one slot and says why)
        pipe.send(("failed", f"{type(error).__name__}: {error}"))
    sys.stderr.flush()
    os._exit(0)


def _serve(plan: ProbePlan, pipe: Connection) -> None:
    import torch

    from hms_tune.data.store.prepare import prepare
    from hms_tune.machine.device import resolve_device
    from hms_tune.training.events import EpochEnded

    device = resolve_device(plan.device)
    pipe.send(("name", _device_name(device)))
    first = pipe.recv()
    store = prepare(plan.data_root)
    on_cpu = device.type == "cpu"
    if on_cpu:
        torch.set_num_threads(cpu_threads(1))
    if first and not on_cpu:
        batch = plan.largest.training.batch_size
        _until_epoch(_training(plan.largest, _some_rows(store, plan.largest, 3 * batch), device, plan))
    if on_cpu:
        store = _some_rows(store, plan.middle, _CPU_BATCHES * plan.middle.training.batch_size)
    training = _training(plan.middle, store, device, plan)
    _until_epoch(training)  # whatever is made at first use is made now
    pipe.send(("ready", None))
    while True:
        start, threads = pipe.recv()
        if threads is not None:
            torch.set_num_threads(threads)
        time.sleep(max(0.0, start - time.monotonic()))
        images, spent = 0, 0.0
        while images == 0 or spent < plan.seconds:
            event = next(training)
            if isinstance(event, EpochEnded):
                images += event.images
                spent = time.monotonic() - start
        pipe.send(("done", (images, spent, _memory_share(device))))


def _training(config: TrialConfig, store: Store, device: Any, plan: ProbePlan) -> Iterator[Any]:
    """Events of cross-validation after cross-validation, without an end.

    Where steps are to be run in the fastest way, CUDA graphs stand for it: compiling would take longer than
    all the rest.
    """
    from hms_tune.training.cross_validation import CrossValidation
    from hms_tune.training.workspace import Workspace

    wanted: Acceleration = "graphs" if plan.acceleration == "auto" else plan.acceleration
    workspace = Workspace(store, device, AccelerationSettings(wanted))
    while True:
        yield from CrossValidation(_endless(config, store), workspace, device).run()


def _until_epoch(training: Iterator[Any]) -> None:
    from hms_tune.training.events import EpochEnded

    while not isinstance(next(training), EpochEnded):
        pass


def _endless(config: TrialConfig, store: Store) -> TrialConfig:
    """The configuration without an early end, on few folds, and with no weights to be downloaded."""
    content = json.loads(config.canonical_json())
    patients = int(store.train["patient_id"].nunique())
    folds = min(config.data.folds, patients)
    content["data"] |= {"folds": folds, "fold_repeats": 1, "train_folds": None, "holdout": 0.0}
    content["data"] |= {"judged_on": "all_rows", "fold_scheme": "group_k_fold"}
    content["model"]["pretrained"] = False
    content["training"] |= {"epochs": 1000, "early_stopping": None, "second_stage": None}
    content["training"] |= {"few_votes_weight": 1.0}
    return TrialConfig.model_validate(content)


def _some_rows(store: Store, config: TrialConfig, most: int) -> Store:
    """The store with the first patients alone, about ``most`` EEGs of them."""
    from hms_tune.data.schema import VOTE_COLUMNS

    voted = store.train[list(VOTE_COLUMNS)].sum(axis=1).round() >= config.data.min_votes
    table = store.train[voted]
    counts = table.groupby("patient_id", sort=False)["eeg_id"].nunique().cumsum()
    n_patients = max(int((counts < most).sum()) + 1, config.data.folds)
    return replace(store, train=table[table["patient_id"].isin(counts.index[:n_patients])])


def _device_name(device: Any) -> str:
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{processor_name()}, {cpu_threads(1)} threads"


def _memory_share(device: Any) -> float:
    """Of a GPU what all processes hold of it; of the machine what this process has held at most."""
    import torch

    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return 1.0 - free / total
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / machine
