"""The further ranks of a slot: their processes, and what the supervisor does about them.

A further rank computes what the slot's process says. It knows of no database, no tracking and no checkpoint.
"""

from __future__ import annotations

import logging
import os
import tempfile
import threading
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from pathlib import Path

from hms_tune.errors import HmsTuneError, RankLostError
from hms_tune.machine.child_processes import ChildProcess, importing
from hms_tune.machine.stop_signals import leave_signals_to_the_worker
from hms_tune.training.distributed.group import RankPlace, store_in, tell_of_loss
from hms_tune.worker.options import SlotPlan
from hms_tune.worker.pipe import LogLine, PipeObserver, SlotFailed, log_to_pipe
from hms_tune.worker.stop import ORPHAN_S

REQUEUE_GRACE_S = 20.0
"""How long a slot has to requeue its trial after one of its ranks died. Between CPUs it notices at once;
between GPUs it may be held by a kernel that waits for the dead one, and then it is killed."""

_logger = logging.getLogger(__name__)


class RankProcesses:
    """Further ranks of one slot, from their start to their end.

    Parameters
    ----------
    plan : the slot's
    places : each rank's place and its device
    folder : where they meet, if on this machine alone; there the others learn of one that dies. It is removed
        when all have ended

    Attributes
    ----------
    error : what a rank could not fix, if anything
    failed : whether a rank ended otherwise than dismissed
    """

    def __init__(
        self,
        plan: SlotPlan,
        places: Sequence[tuple[RankPlace, str]],
        folder: tempfile.TemporaryDirectory[str] | None = None,
    ) -> None:
        self.error: HmsTuneError | None = None
        self.failed = False
        self._slot = plan.slot
        self._folder = folder
        self._first: ChildProcess | None = None
        self._ending = threading.Event()
        self._ranks: dict[Connection, tuple[int, ChildProcess]] = {}
        for place, device in places:
            name = f"rank {place.rank} of slot {plan.slot}"
            process = ChildProcess(rank_main, plan, place, device, name=name)
            self._ranks[process.pipe] = place.rank, process
        self._processes = [process for _, process in self._ranks.values()]
        self._listener = threading.Thread(target=self._listen, name=f"ranks-{plan.slot}", daemon=True)
        self._listener.start()

    def end_with_them(self, first: ChildProcess) -> None:
        """Let the slot's own process not outlive one of these for long."""
        self._first = first

    def wait(self) -> None:
        """Wait until every rank has ended. The slot's own process has."""
        self._listener.join()
        if self._folder is not None:
            self._folder.cleanup()

    def kill(self) -> None:
        """End them at once."""
        self._ending.set()
        for process in self._processes:
            with suppress(OSError):
                process.kill()

    def _listen(self) -> None:
        """Receive their messages, and join those that end. This thread alone joins the processes."""
        while self._ranks:
            for pipe in wait(list(self._ranks)):
                assert isinstance(pipe, Connection)
                try:
                    message = pipe.recv()
                except (EOFError, OSError):
                    self._on_end(pipe)
                    continue
                match message:
                    case LogLine(name, level, text):
                        if not self._ending.is_set():
                            logging.getLogger(name).log(level, "%s", text)
                    case SlotFailed(error):
                        self.error = self.error or error
                    case _:
                        pass

    def _on_end(self, pipe: Connection) -> None:
        rank, process = self._ranks.pop(pipe)
        process.join()
        pipe.close()
        not_begun = process.not_begun()
        if self._ending.is_set() or (process.exitcode == 0 and not_begun is None):
            return
        self.failed = True
        self.error = self.error or not_begun
        _logger.warning("Rank %d of slot %s died (exit status %s)", rank, self._slot, process.exitcode)
        if self._folder is not None:
            tell_of_loss(store_in(Path(self._folder.name)), f"rank {rank} of slot {self._slot} is gone")
        first = self._first
        if first is not None and not first.ends_within(REQUEUE_GRACE_S):
            with suppress(OSError):
                first.kill()


def start_local_ranks(plan: SlotPlan) -> tuple[RankPlace, RankProcesses]:
    """Start the further ranks of a slot whose devices are all on this machine.

    Returns
    -------
    the place of the slot's own process, and the others
    """
    folder = tempfile.TemporaryDirectory(prefix="hms-tune-ranks-")
    places = [RankPlace(rank, len(plan.devices), Path(folder.name)) for rank in range(len(plan.devices))]
    return places[0], RankProcesses(plan, list(zip(places, plan.devices, strict=True))[1:], folder)


def rank_main(plan: SlotPlan, place: RankPlace, device: str, pipe: Connection) -> None:
    """The process of a further rank. The exit status is 0 if the slot's process dismissed it.

    Parameters
    ----------
    plan : the slot's
    place : which rank this is, and where it meets the others
    device : where it computes
    pipe : for its log; the supervisor's end closes when the supervisor is gone
    """
    leave_signals_to_the_worker()
    threading.Thread(target=_end_when_orphaned, args=(pipe,), name="supervisor", daemon=True).start()
    supervisor = PipeObserver(pipe)
    log_to_pipe(supervisor)
    status = 0
    try:
        with importing(f"rank {place.rank} of slot {plan.slot}"):
            from hms_tune.worker.trainer import follow_first_rank  # brings timm along

        follow_first_rank(plan, place, device)
    except RankLostError as error:
        _logger.warning("Rank %d of slot %s: %s", place.rank, plan.slot, error)
        status = 1
    except HmsTuneError as error:
        supervisor.send(SlotFailed(error))
        status = 1
    os._exit(status)


def _end_when_orphaned(pipe: Connection) -> None:
    try:
        pipe.recv()
    except (EOFError, OSError):  # the slot's process requeues its trial meanwhile
        threading.Event().wait(ORPHAN_S)
        os._exit(1)
