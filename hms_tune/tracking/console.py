"""What a person sees while trials run: a live table in a terminal, plain lines elsewhere."""

from __future__ import annotations

import math
import threading

from rich.console import Console
from rich.live import Live
from rich.text import Text

from hms_tune.machine.progress import GrowingPauses, duration
from hms_tune.studies.standing import Standing
from hms_tune.studies.text import score_text
from hms_tune.tracking.console_table import TrialProgress, slots_table, trial_name
from hms_tune.tracking.stderr import error_console
from hms_tune.tracking.study_outlook import StudyOutlook
from hms_tune.training.events import EpochEnded, Event, FoldEnded
from hms_tune.training.observer import TrialInfo
from hms_tune.trial_state import AttemptState

__all__ = ["ConsoleObserver", "trial_name"]

_STYLES = {AttemptState.COMPLETE: "green", AttemptState.FAILED: "red"}


class ConsoleObserver:
    """Shows the trials of one or more slots on the standard error stream.

    In a terminal each slot has one line of a table that is redrawn at every epoch, and finished trials scroll
    by above. Elsewhere the start of a trial, the end of each of its folds, and its end are one plain line
    each; of a fold that takes long, epochs are told at growing intervals.

    Parameters
    ----------
    console : where to write; standard error by default. It leaves colours out where ``NO_COLOR`` is set.
    live : redraw lines in place; by default where the console is a terminal that can
    every_epoch : write a plain line for each epoch, too
    """

    def __init__(
        self, console: Console | None = None, *, live: bool | None = None, every_epoch: bool = False
    ) -> None:
        self._every_epoch = every_epoch
        self._console = console or error_console()
        drawable = self._console.is_terminal and not self._console.is_dumb_terminal
        self._is_live = drawable if live is None else live
        self._live: Live | None = None
        self._running: dict[str, TrialProgress | None] = {}
        self._pauses: dict[str, GrowingPauses] = {}
        self._outlook: StudyOutlook | None = None
        self._lock = threading.RLock()

    def trial_started(self, trial: TrialInfo) -> None:
        """Begin the slot's line."""
        with self._lock:
            self._running[trial.slot] = TrialProgress(trial)
            self._pauses[trial.slot] = GrowingPauses()
            if not self._is_live:
                self._print(f"{trial_name(trial)}  starts on {trial.slot}")
            self._redraw()

    def event(self, trial: TrialInfo, event: Event) -> None:
        """Redraw the slot's line, or write one for a fold."""
        with self._lock:
            progress = self._running.get(trial.slot)
            if progress is None:
                progress = self._running[trial.slot] = TrialProgress(trial)
            progress.observe(event)
            if not self._is_live:
                self._print_event(progress, event)
            self._redraw()

    def trial_ended(
        self, trial: TrialInfo, state: AttemptState, value: float | None, reason: str | None
    ) -> None:
        """Write how the trial ended; its slot's line waits for the next."""
        with self._lock:
            progress = self._running.get(trial.slot)
            if self._is_live:
                self._running[trial.slot] = None
            line = Text(f"{trial_name(trial)}  ")
            line.append(state, style=_STYLES.get(state, ""))
            if value is not None and math.isfinite(value):
                line.append(f"  KL {_score(state, value, progress, self._outlook)}")
            rest = (reason or "").removeprefix(state).removeprefix(": ")
            if rest:
                line.append(f"  {rest}", style="dim")
            self._redraw()
            self._print(line)

    def show_study(self, outlook: StudyOutlook) -> None:
        """Show the study's progress under the slots' lines; without a terminal, nothing."""
        with self._lock:
            self._outlook = outlook
            self._redraw()

    def close(self) -> None:
        """End the live table."""
        with self._lock:
            self._running.clear()
            if self._live is not None:
                self._live.update(Text(""))
                self._live.stop()
                self._live = None

    def _print_event(self, progress: TrialProgress, event: Event) -> None:
        """Print the plain line of an event that has one."""
        name, left = trial_name(progress.trial), progress.seconds_left
        pace = f"{progress.images_per_second:,.0f} images/s" if progress.images_per_second else ""
        rest = "" if left is None or left <= 0 else f"{duration(left)} left"
        match event:
            case FoldEnded() if not event.replayed:
                done = f"fold {event.fold + 1}/{event.folds} ends"
                at = f"epoch {event.best_epoch + 1} of {event.epochs_run}"
                self._print("  ".join(filter(None, (name, done, f"KL {event.kl:.4f} at {at}", pace, rest))))
            case EpochEnded() if not event.replayed and self._tells_epoch(progress):
                at = f"fold {event.fold + 1}/{event.folds}  epoch {event.epoch + 1}/{event.epochs}"
                kl = "" if math.isnan(event.kl) else f"KL {event.kl:.4f}"
                loss = f"loss {event.train_loss:.4f}"
                self._print("  ".join(filter(None, (name, at, loss, kl, pace, rest))))
            case EpochEnded() if not progress.has_validation and event.epoch + 1 == event.epochs:
                self._print("  ".join(filter(None, (name, f"all rows, {event.epochs} epochs", pace))))
            case _:
                pass

    def _tells_epoch(self, progress: TrialProgress) -> bool:
        pauses = self._pauses.setdefault(progress.trial.slot, GrowingPauses())
        return pauses.is_due() or self._every_epoch

    def _print(self, line: str | Text) -> None:
        self._console.print(Text(line) if isinstance(line, str) else line, highlight=False, soft_wrap=True)

    def _redraw(self) -> None:
        if not self._is_live or (self._live is None and not self._running):
            return
        if self._live is None:
            self._live = Live(console=self._console, auto_refresh=False, transient=True)
            self._live.start()
        shown = slots_table(sorted(self._running.items()), self._outlook, width=self._console.width)
        self._live.update(shown, refresh=True)


def _score(
    state: AttemptState, value: float, progress: TrialProgress | None, outlook: StudyOutlook | None
) -> str:
    """A trial's KL; of one that was not trained to its end, marked as a part."""
    if state is AttemptState.COMPLETE or progress is None:
        return score_text(value)
    standing = Standing() if outlook is None else outlook.standing
    return standing.text(value, progress.fold, progress.folds)
