"""The processes of a worker's slots: started, heard, started again where one died, asked to stop.

The supervisor computes nothing. What slots tell it passes on; a dead one starts again after a pause that
doubles, and one that dies again and again ends the worker.
"""

from __future__ import annotations

import logging
import multiprocessing
import signal
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess

from hms_tune.errors import HmsTuneError, RankLostError, TrainingError
from hms_tune.training.observer import Observer
from hms_tune.worker.pipe import LogLine, SlotFailed, TrialEnded, TrialEvent, TrialStarted
from hms_tune.worker.presence import ImageCount
from hms_tune.worker.ranks import LocalRanks
from hms_tune.worker.slot_process import SlotPlan, slot_main

_logger = logging.getLogger(__name__)

MOST_RESTARTS = 4
QUICK_S = 600.0
"""A slot that ran longer than this before it died starts with a clean record."""


@dataclass(slots=True)
class _SlotProcess:
    plan: SlotPlan
    process: SpawnProcess
    pipe: Connection
    started: float
    deaths: int = 0
    ranks: LocalRanks | None = None


class Supervisor:
    """Runs slots until each has ended.

    Parameters
    ----------
    observer : told the stories of all slots
    images : counts what they learnt from
    stopping : whether the worker was asked to stop

    Attributes
    ----------
    errors : why the worker is to end before its work is done
    """

    def __init__(self, observer: Observer, images: ImageCount, *, stopping: Callable[[], bool]) -> None:
        self.errors: list[HmsTuneError] = []
        self._observer = observer
        self._images = images
        self._stopping = stopping
        self._slots: dict[str, _SlotProcess] = {}
        self._said = False

    @property
    def has_slots(self) -> bool:
        """Whether a slot runs."""
        return bool(self._slots)

    def run(self, plans: Iterable[SlotPlan]) -> None:
        """Start the slots and stay with them."""
        for plan in plans:
            if not self._stopping():
                self._start(plan)
        while self._slots:
            pipes = {slot.pipe: slot for slot in self._slots.values()}
            for pipe in wait(list(pipes)):
                self._say_once_that_it_stops()
                assert isinstance(pipe, Connection)
                self._hear(pipes[pipe])

    def ask_to_stop(self) -> None:
        """Let every slot hand its trial back."""
        for slot in self._slots.values():
            with suppress(OSError):
                slot.pipe.send("stop")

    def kill(self) -> None:
        """End every slot at once."""
        for slot in self._slots.values():
            slot.process.kill()
            if slot.ranks is not None:
                slot.ranks.others.kill()

    def _say_once_that_it_stops(self) -> None:
        if self._stopping() and not self._said:
            self._said = True
            _logger.info("Stopping: trials are handed back; a second signal ends at once")

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
                self._observer.trial_started(trial)
            case TrialEvent(trial, event):
                self._images.add(event)
                self._observer.event(trial, event)
            case TrialEnded(trial, outcome, value, reason):
                self._observer.trial_ended(trial, outcome, value, reason)
            case LogLine(name, level, text):
                logging.getLogger(name).log(level, "%s", text)
            case SlotFailed(error):
                self.errors.append(error)
                self.ask_to_stop()

    def _ended(self, slot: _SlotProcess) -> None:
        slot.process.join()
        slot.pipe.close()
        if slot.ranks is not None:
            slot.ranks.others.kill()
            slot.ranks.others.wait()
            if slot.ranks.others.error is not None and not self._stopping():
                self.errors.append(slot.ranks.others.error)
                self.ask_to_stop()
        del self._slots[slot.plan.slot]
        code = slot.process.exitcode
        if code == 0 or self._stopping() or self.errors:
            return
        deaths = 1 if time.monotonic() - slot.started > QUICK_S else slot.deaths + 1
        died = f"slot {slot.plan.slot} died ({_describe(code)})"
        if slot.plan.ranks is not None:
            self.errors.append(
                RankLostError(
                    f"{died}, and its ranks with it", mend="torchrun --max-restarts starts all anew"
                )
            )
            return
        if deaths > MOST_RESTARTS:
            self.errors.append(
                TrainingError(
                    f"{died}, {deaths} times in a row", mend="Run hms-tune doctor; look at the system's log"
                )
            )
            self.ask_to_stop()
            return
        pause = 2.0 ** (deaths - 1)
        _logger.warning("%s; it starts again in %.0f s", died, pause)
        # Other slots' stories wait in their pipes meanwhile.
        time.sleep(pause)
        if not self._stopping():
            self._start(slot.plan, deaths)


def _describe(code: int | None) -> str:
    if code is None:
        return "unknown"
    if code < 0:
        with suppress(ValueError):
            return signal.Signals(-code).name
    return f"exit status {code}"
