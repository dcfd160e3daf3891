"""What a person sees while trials run: live lines in a terminal, plain lines elsewhere."""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass, field

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from hms_tune.tracking.observer import Outcome, TrialInfo
from hms_tune.training.events import CrossValidationEnded, EpochEnded, Event, FoldStarted

_OUTCOMES: dict[Outcome, str] = {
    "complete": "complete",
    "pruned": "pruned",
    "failed": "failed",
    "handed_back": "handed back",
    "lost": "goes on elsewhere",
}


@dataclass(slots=True)
class _TrialProgress:
    """One running trial, as far as its events told."""

    trial: TrialInfo
    fold: int = 0
    folds: int = 1
    epoch: int = 0
    epochs: int = 1
    kl: float = math.nan
    best: float = math.nan
    images_per_second: float = 0.0
    seconds_per_epoch: list[float] = field(default_factory=list)

    def observe(self, event: Event) -> None:
        match event:
            case FoldStarted():
                self.fold, self.folds = event.fold + 1, event.folds
                self.epoch, self.epochs = 0, event.epochs
            case EpochEnded():
                self.fold, self.folds = event.fold + 1, event.folds
                self.epoch, self.epochs = event.epoch + 1, event.epochs
                self.kl, self.best = event.kl, event.estimate
                if not event.replayed:
                    self.images_per_second = event.images / event.seconds if event.seconds > 0 else 0.0
                    self.seconds_per_epoch.append(event.seconds)
            case CrossValidationEnded():
                self.kl = self.best = event.kl
            case _:
                pass

    @property
    def seconds_left(self) -> float | None:
        """At this trial's pace, if no fold stops early; None before its first epoch."""
        if not self.seconds_per_epoch:
            return None
        left = (self.folds - self.fold) * self.epochs + self.epochs - self.epoch
        return left * sum(self.seconds_per_epoch) / len(self.seconds_per_epoch)

    def columns(self) -> list[str]:
        fold = "all rows" if self.folds == 1 and math.isnan(self.kl) else f"fold {self.fold}/{self.folds}"
        columns = [trial_name(self.trial), fold, f"epoch {self.epoch}/{self.epochs}"]
        if not math.isnan(self.kl):
            columns += [f"KL {self.kl:.4f}", f"best {self.best:.4f}"]
        if self.images_per_second:
            columns.append(f"{self.images_per_second:,.0f} images/s")
        if self.seconds_left is not None:
            columns.append(f"{duration(self.seconds_left)} left")
        return columns


def trial_name(trial: TrialInfo) -> str:
    """``trial 12``, with its first attempt where it has one, or ``export of trial 12``."""
    name = f"trial {trial.number}"
    if trial.lineage != trial.number:
        name += f" (goes on from {trial.lineage})"
    return name if trial.job_type == "trial" else f"{trial.job_type} of {name}"


def duration(seconds: float) -> str:
    """``0:07``, ``12:30`` or ``3:05:00``."""
    minutes, second = divmod(max(0, round(seconds)), 60)
    hour, minute = divmod(minutes, 60)
    return f"{hour}:{minute:02d}:{second:02d}" if hour else f"{minute}:{second:02d}"


class ConsoleObserver:
    """Shows the trials of one or more slots on the standard error stream.

    In a terminal each slot has one line that is redrawn at every epoch, and finished trials scroll by above.
    Elsewhere each epoch and each trial's end is one plain line.

    Parameters
    ----------
    console : where to write; standard error by default
    live : redraw lines in place; by default where the console is a terminal that can
    """

    def __init__(self, console: Console | None = None, *, live: bool | None = None) -> None:
        self._console = console or Console(stderr=True)
        drawable = self._console.is_terminal and not self._console.is_dumb_terminal
        self._is_live = drawable if live is None else live
        self._live: Live | None = None
        self._running: dict[str, _TrialProgress] = {}
        self._lock = threading.RLock()

    def trial_started(self, trial: TrialInfo) -> None:
        """Give the slot its line."""
        with self._lock:
            self._running[trial.slot] = _TrialProgress(trial)
            if not self._is_live:
                self._line([trial_name(trial), "starts on", trial.slot], joint=" ")
            self._redraw()

    def event(self, trial: TrialInfo, event: Event) -> None:
        """Redraw the slot's line, or write one for an epoch."""
        with self._lock:
            progress = self._running.setdefault(trial.slot, _TrialProgress(trial))
            progress.observe(event)
            if not self._is_live and isinstance(event, EpochEnded) and not event.replayed:
                self._line(progress.columns())
            self._redraw()

    def trial_ended(
        self, trial: TrialInfo, outcome: Outcome, value: float | None, reason: str | None
    ) -> None:
        """Write how the trial ended; its slot's line goes."""
        with self._lock:
            self._running.pop(trial.slot, None)
            columns = [trial_name(trial), _OUTCOMES[outcome]]
            if value is not None and math.isfinite(value):
                columns.append(f"KL {value:.4f}")
            if reason and reason != _OUTCOMES[outcome]:
                columns.append(reason)
            self._redraw()
            self._line(columns)

    def close(self) -> None:
        """Give the terminal back."""
        with self._lock:
            self._running.clear()
            if self._live is not None:
                self._live.update(Text(""))
                self._live.stop()
                self._live = None

    def _line(self, columns: list[str], joint: str = "  ") -> None:
        self._console.print(joint.join(columns), markup=False, highlight=False, soft_wrap=True)

    def _redraw(self) -> None:
        if not self._is_live:
            return
        if self._live is None:
            self._live = Live(console=self._console, auto_refresh=False, transient=True)
            self._live.start()
        grid = Table.grid(padding=(0, 2))
        for slot in sorted(self._running):
            grid.add_row(Text(slot, style="dim"), *(Text(text) for text in self._running[slot].columns()))
        self._live.update(grid, refresh=True)
