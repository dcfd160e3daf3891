"""A slot's trial as one line of a table, and the study under it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from hms_tune.machine.progress import duration
from hms_tune.studies.standing import Standing
from hms_tune.tracking.study_outlook import StudyOutlook
from hms_tune.training.events import CrossValidationEnded, EpochEnded, Event, FoldStarted
from hms_tune.training.observer import TrialInfo
from hms_tune.trial_state import label


@dataclass(slots=True)
class TrialProgress:
    """A running trial's progress, from its events. ``best`` is the trial's own estimate so far."""

    trial: TrialInfo
    fold: int = 0
    folds: int = 1
    epoch: int = 0
    epochs: int = 1
    train_loss: float = math.nan
    kl: float = math.nan
    best: float = math.nan
    images_per_second: float = 0.0
    seconds: float = 0.0
    trained: int = 0

    def observe(self, event: Event) -> None:
        """Take in an event."""
        match event:
            case FoldStarted():
                self.fold, self.folds = event.fold + 1, event.folds
                self.epoch, self.epochs = 0, event.epochs
            case EpochEnded():
                self.fold, self.folds = event.fold + 1, event.folds
                self.epoch, self.epochs = event.epoch + 1, event.epochs
                self.train_loss, self.kl, self.best = event.train_loss, event.kl, event.estimate
                if not event.replayed:
                    self.images_per_second = event.images / event.seconds if event.seconds > 0 else 0.0
                    self.seconds += event.seconds
                    self.trained += 1
            case CrossValidationEnded():
                self.kl = self.best = event.kl
            case _:
                pass

    @property
    def seconds_left(self) -> float | None:
        """At this trial's pace, if no fold stops early; None before its first epoch."""
        if not self.trained:
            return None
        left = (self.folds - self.fold) * self.epochs + self.epochs - self.epoch
        return left * self.seconds / self.trained

    @property
    def has_validation(self) -> bool:
        """Whether anything is left to validate on: a refit on all rows has no KL."""
        return self.folds > 1 or not math.isnan(self.kl)


def trial_name(trial: TrialInfo) -> str:
    """``trial 5``, ``trial 5 (attempt 12)`` or ``export of trial 5``."""
    name = f"trial {label(trial.trial, trial.attempt)}"
    return name if trial.job_type == "trial" else f"{trial.job_type} of {name}"


def slots_table(
    running: Sequence[tuple[str, TrialProgress | None]], outlook: StudyOutlook | None, *, width: int
) -> RenderableType:
    """The slots' table, and a line for the study; fits 80 columns.

    Parameters
    ----------
    running : names of slots and what they are at, in the order shown; None between two trials
    width : of the terminal, columns
    """
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2 if width >= 100 else 1, 0, 0))
    table.add_column("slot", style="dim", no_wrap=True)
    table.add_column("trial", no_wrap=True)
    names = ("fold", "epoch", "train loss" if width >= 100 else "train", "KL", "trial best")
    for name in (*names, "study best", "images/s", "left"):
        table.add_column(name if width >= 100 else name.replace("trial ", ""), justify="right", no_wrap=True)
    if width < 100:
        table.columns[7].header = "study"
    for slot, progress in running:
        if progress is None:
            table.add_row(Text(slot), *[Text("–", style="dim")] * (len(table.columns) - 1))
        else:
            table.add_row(*_cells(slot, progress, outlook, wide=width >= 100))
    return Group(table, _footer(outlook, width)) if outlook is not None else table


def _cells(slot: str, progress: TrialProgress, outlook: StudyOutlook | None, *, wide: bool) -> list[Text]:
    trial = progress.trial
    name = trial_name(trial).removeprefix("trial ") if wide else str(trial.trial)
    if not wide and trial.job_type != "trial":
        name = f"{trial.job_type} {trial.trial}"
    study_best = math.nan if outlook is None or outlook.best is None else outlook.best
    standing = Standing() if outlook is None else outlook.standing
    estimate = standing.comparable(progress.best, progress.fold)
    remark = "" if math.isnan(estimate) else standing.remark(estimate, progress.fold, progress.folds)
    leads = remark.startswith("below")
    fold = f"{progress.fold}/{progress.folds}" if progress.has_validation else "all rows" if wide else "all"
    started = progress.fold > 0
    left = progress.seconds_left
    return [
        Text(slot),
        Text(name),
        Text(fold if started else "–"),
        Text(f"{progress.epoch}/{progress.epochs}" if started else "–"),
        _score(progress.train_loss),
        _score(progress.kl),
        _score(estimate, style="green" if leads else "", doubtful=bool(remark) and not leads),
        _score(study_best),
        Text(f"{progress.images_per_second:,.0f}" if progress.images_per_second else "–"),
        Text("–" if left is None else duration(left)),
    ]


def _score(value: float, style: str = "", *, doubtful: bool = False) -> Text:
    """A score; one that seems to beat the best, of folds that may be easy, has a question mark."""
    return Text("–" if math.isnan(value) else f"{value:.4f}" + "?" * doubtful, style=style)


def _footer(outlook: StudyOutlook, width: int) -> Text:
    """The study on one line, what matters most first: what does not fit is left out."""
    ended = f"{outlook.ended} of {outlook.budget} trials" if outlook.budget else f"{outlook.ended} trials"
    parts = [Text(outlook.study, style="bold"), Text(ended)]
    if outlook.left_s is not None:
        parts.append(Text(f"{duration(outlook.left_s)} left"))
    if outlook.best is not None:
        parts.append(Text(f"best KL {outlook.best:.4f} (trial {outlook.best_trial})", style="green"))
    if outlook.per_hour is not None:
        parts.append(Text(f"{outlook.per_hour:,.1f} trials/h"))
    lines = [Text(" · ").join(parts[:number]) for number in range(len(parts), 0, -1)]
    line = next((line for line in lines if line.cell_len <= width), lines[-1])
    line.no_wrap, line.overflow = True, "ellipsis"
    return line
