"""Starts the processes of a worker's slots, passes on their messages, and starts again those that die.

The supervisor computes nothing. A slot that died starts again after a pause that doubles; one that dies again
and again ends the worker.
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

from hms_tune.errors import HmsTuneError, RankLostError, TrainingError
from hms_tune.machine.child_processes import ChildProcess
from hms_tune.training.observer import Observer
from hms_tune.worker.options import SlotPlan
from hms_tune.worker.pipe import LogLine, SlotFailed, TrialEnded, TrialEvent, TrialStarted
from hms_tune.worker.presence import ImageCount
from hms_tune.worker.ranks import RankProcesses, start_local_ranks
from hms_tune.worker.slot_process import slot_main

_logger = logging.getLogger(__name__)

MOST_RESTARTS = 4
QUICK_S = 600.0
"""A slot that ran longer than this before it died starts with a clean record."""


@dataclass(slots=True)
class _SlotProcess:
    plan: SlotPlan
    process: ChildProcess
    started: float
    deaths: int = 0
    ranks: RankProcesses | None = None


class Supervisor:
    """Runs slots until each has ended.

    Parameters
    ----------
    observer : gets the events of all slots
    images : counts the images they trained
    stopping : whether the worker was asked to stop

    Attributes
    ----------
    errors : why the worker is to end before its work is done
    has_begun : whether slots were started; they may have ended since
    """

    def __init__(self, observer: Observer, images: ImageCount, *, stopping: Callable[[], bool]) -> None:
        self.errors: list[HmsTuneError] = []
        self.has_begun = False
        self._observer = observer
        self._images = images
        self._stopping = stopping
        self._slots: dict[str, _SlotProcess] = {}
        self._asked, self._ask = multiprocessing.Pipe(duplex=False)
        self._has_said_so = False

    def run(self, plans: Iterable[SlotPlan]) -> None:
        """Start the slots, and return when each has ended."""
        self.has_begun = True
        for plan in plans:
            if not self._stopping():
                self._start(plan)
        while self._slots:
            pipes = {slot.process.pipe: slot for slot in self._slots.values()}
            for pipe in wait([self._asked, *pipes]):
                self._say_that_it_stops()
                assert isinstance(pipe, Connection)
                if pipe is self._asked:
                    pipe.recv()
                else:
                    self._receive(pipes[pipe])

    def ask_to_stop(self) -> None:
        """Let every slot requeue its trial."""
        self._ask.send(None)  # a slot in the midst of a step sends nothing for seconds, and a person waits
        for slot in self._slots.values():
            with suppress(OSError):
                slot.process.pipe.send("stop")

    def kill(self) -> None:
        """End every slot at once."""
        for slot in self._slots.values():
            slot.process.kill()
            if slot.ranks is not None:
                slot.ranks.kill()

    def _say_that_it_stops(self) -> None:
        if self._stopping() and not self._has_said_so:
            self._has_said_so = True
            _logger.info("Stopping: trials are requeued; a second signal ends at once")

    def _start(self, plan: SlotPlan, deaths: int = 0) -> None:
        place, ranks = start_local_ranks(plan) if len(plan.devices) > 1 else (plan.place, None)
        process = ChildProcess(slot_main, replace(plan, place=place), name=f"slot {plan.slot}")
        if ranks is not None:
            ranks.end_with_them(process)
        self._slots[plan.slot] = _SlotProcess(plan, process, time.monotonic(), deaths, ranks)

    def _receive(self, slot: _SlotProcess) -> None:
        """Receive one message of a slot, or learn that it ended."""
        try:
            message = slot.process.pipe.recv()
        except (EOFError, OSError):
            self._on_end(slot)
            return
        match message:
            case TrialStarted(trial):
                self._observer.trial_started(trial)
            case TrialEvent(trial, event):
                self._images.add(event)
                self._observer.event(trial, event)
            case TrialEnded(trial, state, value, reason):
                self._observer.trial_ended(trial, state, value, reason)
            case LogLine(name, level, text):
                logging.getLogger(name).log(level, "%s", text)
            case SlotFailed(error):
                self.errors.append(error)
                self.ask_to_stop()
            case _:
                raise ValueError(f"a slot sent {type(message).__name__}")

    def _on_end(self, slot: _SlotProcess) -> None:
        slot.process.join()
        slot.process.pipe.close()
        if slot.ranks is not None:
            slot.ranks.kill()
            slot.ranks.wait()
            if slot.ranks.error is not None and not self._stopping():
                self.errors.append(slot.ranks.error)
                self.ask_to_stop()
        del self._slots[slot.plan.slot]
        code = slot.process.exitcode
        if self._stopping() or self.errors:
            return
        if (not_begun := slot.process.not_begun()) is not None:
            self.errors.append(not_begun)
            self.ask_to_stop()
            return
        if code == 0:
            return
        deaths = 1 if time.monotonic() - slot.started > QUICK_S else slot.deaths + 1
        died = f"slot {slot.plan.slot} died ({_describe(code)})"
        if slot.plan.place is not None:
            self.errors.append(
                RankLostError(
                    f"{died}, and its ranks with it", hint="torchrun --max-restarts starts all anew"
                )
            )
            return
        if deaths > MOST_RESTARTS:
            self.errors.append(
                TrainingError(
                    f"{died}, {deaths} times in a row",
                    hint="Read what it said above, or the system's log; run hms-tune doctor",
                )
            )
            self.ask_to_stop()
            return
        pause = 2.0 ** (deaths - 1)
        _logger.warning("%s; it starts again in %.0f s", died, pause)
        # Other slots' messages wait in their pipes meanwhile.
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
