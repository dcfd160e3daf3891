"""Worker processes that are forked from one that has imported everything, so that killing them is cheap."""

from __future__ import annotations

import errno
import json
import logging
import multiprocessing
import os
import random
import signal
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Optuna brings these along when it first looks at its tables; here once, not in each process that is forked.
import alembic.command
import alembic.config
import alembic.script  # noqa: F401
import mako.template  # noqa: F401
import psycopg2.extras  # noqa: F401
import tiny
import wrong_clock
from history import Fact

from hms_tune.config.study_file import StudyFile
from hms_tune.config.trial import TrialConfig
from hms_tune.database.connect import open_patiently
from hms_tune.database.connection.retry import Patience
from hms_tune.database.queue import recovery
from hms_tune.database.queue.lease import Holder
from hms_tune.database.queue.study_queue import StudyQueue
from hms_tune.machine import processes
from hms_tune.machine.processes import leave_mark, this_process
from hms_tune.training import checkpoint
from hms_tune.training.events import Event
from hms_tune.training.observer import TrialInfo
from hms_tune.trial_state import AttemptState
from hms_tune.worker.attempt import SlotSetup
from hms_tune.worker.checkpoint_store.checkpoints import Artifacts
from hms_tune.worker.open_study import join_search, open_search
from hms_tune.worker.slot import Slot


@dataclass(frozen=True, slots=True)
class Orders:
    """What a worker process is to do.

    ``full_disk``: how many of a hundred checkpoint writes fail for want of space; ``flips``: how many of a
    hundred stored checkpoints have a bit flipped or their end cut off; ``poison``: the step at which the
    study's first trial ends its process with a segmentation fault; ``clock_s``: by how much its own clock is
    wrong, s; ``zone``: its time zone, as in the environment variable TZ.
    """

    url: str
    study_json: str
    folder: Path
    name: str
    lease_s: float
    epoch_s: float
    seed: int
    full_disk: int = 0
    flips: int = 0
    poison: int | None = None
    most_losses: int = 1_000_000
    clock_s: float = 0.0
    zone: str | None = None


def put_out_after(url: str, seconds: float) -> str:
    """The database, for processes that may be stopped in a transaction: it puts out whoever sleeps in one.

    A worker's own limit is 60 s.
    """
    mark = "&" if "?" in url else "?"
    return f"{url}{mark}options=-c%20idle_in_transaction_session_timeout%3D{round(1000 * seconds)}"


class Diary:
    """An observer that writes a line for each word it hears. A line is written whole or not at all."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def _write(self, trial: TrialInfo, what: str) -> None:
        line = json.dumps({"at": time.time(), "number": trial.attempt, "what": what})
        os.write(self._file, f"{line}\n".encode())

    def trial_started(self, trial: TrialInfo) -> None:
        self._write(trial, "started")

    def event(self, trial: TrialInfo, event: Event) -> None:
        self._write(trial, type(event).__name__)

    def trial_ended(
        self, trial: TrialInfo, state: AttemptState, value: float | None, reason: str | None
    ) -> None:
        if state is not AttemptState.LOST:
            self._write(trial, state)

    def close(self) -> None: ...


def told(folder: Path, trial_of: dict[int, int]) -> list[Fact]:
    """What the diaries in a folder say; ``trial_of`` gives the Optuna id of a number."""
    facts = []
    for path in folder.glob("*.diary"):
        for line in path.read_text().splitlines():
            entry = json.loads(line)
            facts.append(
                Fact(kind="told", at=entry["at"], attempt=trial_of[entry["number"]], detail=entry["what"])
            )
    return facts


def work(orders: Orders) -> None:
    """A worker's slot: runs trials until the budget is spent."""
    wrong_clock.set_wrong(orders.clock_s, orders.zone)
    _log_to(orders)
    try:
        _damage_checkpoints(orders)
        storage = open_patiently(orders.url, Patience())
        study_file = StudyFile.from_json(orders.study_json)
        search = storage.through_outages(lambda: join_search(storage, study_file))
        queue = StudyQueue(
            storage,
            search.study,
            search.study_id,
            Holder(orders.name, "cpu", this_process()),
            lease_s=orders.lease_s,
            most_losses=orders.most_losses,
            promotion=search.promotion,
        )
        trained = _Steps(orders).trained
        setup = SlotSetup(
            queue,
            search,
            train=tiny.tiny_train(orders.epoch_s, trained=trained),
            train_fold=tiny.tiny_train_fold(orders.epoch_s, trained=trained),
            artifacts=Artifacts.at(
                orders.folder / "store", orders.folder / f"scratch-{orders.name}", study_file.study
            ),
            observers=[Diary(orders.folder / f"{orders.name}.diary")],
            poll_s=0.1,
            look_s=0.5,
        )
        Slot(setup).run()
    except BaseException:
        logging.getLogger("faults").exception("the worker ends")
        (orders.folder / f"{orders.name}.error").write_text(traceback.format_exc())
        os._exit(3)
    os._exit(0)


def recover_and_die(orders: Orders) -> None:
    """Recover again and again, and be killed at a random place in the middle of one recovery."""
    _log_to(orders)
    try:
        _recover_until_killed(orders)
    except BaseException:
        (orders.folder / f"{orders.name}.error").write_text(traceback.format_exc())
        raise


def _recover_until_killed(orders: Orders) -> None:
    draw = random.Random(orders.seed)
    places = ["_optuna_trial_of", "_end", "end_lease_and_trial"]
    name = draw.choice(places)
    original = getattr(recovery, name)
    after = draw.random() < 0.5

    def fatal(*arguments: Any, **keywords: Any) -> Any:
        result = original(*arguments, **keywords) if after else None
        (orders.folder / f"{orders.name}.died").write_text(name)
        os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(recovery, name, fatal)
    storage = open_patiently(orders.url, Patience())
    study = StudyFile.from_json(orders.study_json)
    search = storage.through_outages(lambda: open_search(storage, study))
    silent = recovery.SilentLeases(orders.lease_s)
    while True:
        storage.through_outages(
            lambda: recovery.recover(
                storage, search.study_id, this_process(), silent, most_losses=orders.most_losses
            )
        )
        time.sleep(0.02)


class _Steps:
    """Writes down when each epoch was trained."""

    def __init__(self, orders: Orders) -> None:
        self._file = os.open(orders.folder / f"{orders.name}.steps", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        self._folder, self._poison = orders.folder, orders.poison

    def trained(self, config: TrialConfig, number: int) -> None:
        os.write(self._file, f"{time.time()} {number}\n".encode())
        if number == self._poison and self._is_the_first(config):
            os.kill(os.getpid(), signal.SIGSEGV)

    def _is_the_first(self, config: TrialConfig) -> bool:
        marker = self._folder / "poison"
        if not marker.exists():
            marker.write_text(config.hash)
        return marker.read_text() == config.hash


def _damage_checkpoints(orders: Orders) -> None:
    """Let some checkpoint writes meet a full disk, and damage some that were written."""
    draw = random.Random(orders.seed)
    write = checkpoint.write_checkpoint

    def damaging(directory: Path, number: int, state: dict[str, Any]) -> Path:
        if draw.randrange(100) < orders.full_disk:
            raise checkpoint.CheckpointError(
                f"the checkpoint cannot be written ({os.strerror(errno.ENOSPC)})", where=directory
            )
        path = write(directory, number, state)
        if draw.randrange(100) < orders.flips:
            whole = bytearray(path.read_bytes())
            if draw.random() < 0.5:
                whole[draw.randrange(len(whole))] ^= 1 << draw.randrange(8)
            else:
                del whole[draw.randrange(len(whole)) :]
            path.write_bytes(whole)
        return path

    tiny.write_checkpoint = damaging


def _log_to(orders: Orders) -> None:
    processes.MARKS = orders.folder
    leave_mark(orders.name)
    logging.basicConfig(
        filename=orders.folder / f"{orders.name}.log", level=logging.INFO, format="%(asctime)s %(message)s"
    )


class Fleet:
    """The processes of one search, each started again after it was killed."""

    def __init__(self) -> None:
        self._context = multiprocessing.get_context("forkserver")
        # The server of forks imports before it is told this process's path.
        here, others = str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")
        if here not in others.split(os.pathsep):
            os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [here, others]))
        self._context.set_forkserver_preload(["fleet"])
        self.workers: dict[str, Any] = {}
        self.orders: dict[str, Orders] = {}

    def start(self, orders: Orders, target: Any = work) -> None:
        process = self._context.Process(target=target, args=(orders,), daemon=True)
        process.start()
        self.workers[orders.name] = process
        self.orders[orders.name] = orders

    def kill(self, name: str) -> None:
        """SIGKILL; the process is gone afterwards."""
        process = self.workers.pop(name)
        os.kill(process.pid, signal.SIGKILL)
        process.join()

    def signal(self, name: str, number: signal.Signals) -> None:
        process = self.workers[name]
        if process.is_alive():
            os.kill(process.pid, number)

    def close(self) -> None:
        for process in self.workers.values():
            if process.is_alive():
                process.kill()
            process.join()
