"""The processes of further ranks, beside the one of a slot, as the supervisor sees them."""

from __future__ import annotations

import logging
import multiprocessing
import threading
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess

from torch.distributed import Store  # type: ignore[attr-defined]

from hms_tune.errors import HmsTuneError
from hms_tune.training.distributed.group import RankPlace, host_store, tell_of_loss
from hms_tune.worker.pipe import LogLine, SlotFailed
from hms_tune.worker.rank_process import rank_main
from hms_tune.worker.slot_process import SlotPlan

GRACE_S = 20.0
"""How long a slot has to hand its trial back after one of its ranks died. Between CPUs it notices at once;
between GPUs it may be held by a kernel that waits for the dead one, and then it is killed."""

_logger = logging.getLogger(__name__)


class Companions:
    """Further ranks of one slot, from their start to their end.

    Parameters
    ----------
    plan : the slot's
    places : each rank's place and its device
    store : where they meet, if this process hosts it; the others are told there of one that dies

    Attributes
    ----------
    error : what a rank could not mend, if anything
    failed : whether a rank ended otherwise than dismissed
    """

    def __init__(
        self, plan: SlotPlan, places: Sequence[tuple[RankPlace, str]], store: Store | None = None
    ) -> None:
        self.error: HmsTuneError | None = None
        self.failed = False
        self._slot = plan.slot
        self._store = store
        self._leader: SpawnProcess | None = None
        self._ending = threading.Event()
        self._ranks: dict[Connection, tuple[int, SpawnProcess]] = {}
        context = multiprocessing.get_context("spawn")
        for place, device in places:
            ours, theirs = context.Pipe(duplex=True)
            process = context.Process(
                target=rank_main,
                args=(plan, place, device, theirs),
                name=f"slot-{plan.slot}-rank-{place.rank}",
                daemon=True,
            )
            process.start()
            theirs.close()
            self._ranks[ours] = place.rank, process
        self._processes = [process for _, process in self._ranks.values()]
        self._listener = threading.Thread(target=self._listen, name=f"ranks-{plan.slot}", daemon=True)
        self._listener.start()

    def watch(self, leader: SpawnProcess) -> None:
        """Let the slot's process not outlive one of its ranks for long."""
        self._leader = leader

    def wait(self) -> None:
        """Until every rank has ended."""
        self._listener.join()

    def kill(self) -> None:
        """End them at once."""
        self._ending.set()
        for process in self._processes:
            with suppress(OSError):
                process.kill()

    def _listen(self) -> None:
        """Take their messages, and their ends. This thread alone joins the processes."""
        while self._ranks:
            for pipe in wait(list(self._ranks)):
                assert isinstance(pipe, Connection)
                try:
                    message = pipe.recv()
                except (EOFError, OSError):
                    self._ended(pipe)
                    continue
                match message:
                    case LogLine(name, level, text):
                        if not self._ending.is_set():
                            logging.getLogger(name).log(level, "%s", text)
                    case SlotFailed(error):
                        self.error = self.error or error
                    case _:
                        pass

    def _ended(self, pipe: Connection) -> None:
        rank, process = self._ranks.pop(pipe)
        process.join()
        pipe.close()
        if process.exitcode == 0 or self._ending.is_set():
            return
        self.failed = True
        _logger.warning("Rank %d of slot %s died (exit status %s)", rank, self._slot, process.exitcode)
        if self._store is not None:
            tell_of_loss(self._store, f"rank {rank} of slot {self._slot} is gone")
        leader = self._leader
        if leader is not None and not wait([leader.sentinel], GRACE_S):
            with suppress(OSError):
                leader.kill()


class LocalRanks:
    """The ranks of a slot whose devices are all on this machine: the place of the first, and the others.

    Parameters
    ----------
    plan : the slot's; its ``companions`` are the devices of the other ranks
    """

    def __init__(self, plan: SlotPlan) -> None:
        store = host_store()
        size, port = 1 + len(plan.companions), store.port
        self.first = RankPlace(0, size, port)
        places = [(RankPlace(rank, size, port), name) for rank, name in enumerate(plan.companions, start=1)]
        self.others = Companions(plan, places, store)
