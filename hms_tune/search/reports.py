"""What a trial reports to Optuna, and when it is asked whether to go on.

A trial reports after each epoch its cross-validation estimate (the mean of the best KL of every finished fold
and of the current one) at step ``fold · max_epochs + epoch + 1``. For a pruner that compares whole folds, as
Wilcoxon's does, it reports the fold's KL at step ``fold`` when a fold ends.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import optuna

from hms_tune.config.study_file import StudyFile
from hms_tune.config.study_sections import PromotionScheduler
from hms_tune.errors import NonFiniteLossError
from hms_tune.search.promotion.rule import Promotion, rungs
from hms_tune.training.events import EpochEnded, Event, FoldEnded, FoldStarted


class Reporter:
    """Reports one attempt of a trial and asks the pruner.

    An attempt that resumes is a new Optuna trial, so what training replays is reported again. Nothing is
    pruned on a replayed event; the decision that was open when the earlier attempt ended is taken at the
    first new one.

    Parameters
    ----------
    trial : the attempt
    study_file : the study's file
    """

    def __init__(self, trial: optuna.Trial, study_file: StudyFile) -> None:
        pruner = study_file.search.pruner
        self._trial = trial
        self._epochs = study_file.max_epochs
        self._by_fold = pruner.compares_whole_folds
        self._keeps_rungs = pruner.keeps_rungs
        self._reported: set[int] = set()
        self._undecided = False

    def observe(self, event: Event) -> bool:
        """Report what the event tells; True: prune the trial now.

        Raises
        ------
        NonFiniteLossError
            If a KL is NaN or infinite. Nothing is reported then: Optuna takes NaN for a reason to prune and
            infinity for a result.
        """
        match event:
            case EpochEnded():
                self._check_finite(event.kl, event.fold, f"epoch {event.epoch + 1}")
                self._check_finite(event.estimate, event.fold, f"epoch {event.epoch + 1}")
                if not self._by_fold:
                    self._report(event.estimate, event.fold * self._epochs + event.epoch + 1)
                last = event.fold == event.folds - 1 and event.epoch == event.epochs - 1
            case FoldEnded():
                self._check_finite(event.kl, event.fold, "its end")
                if self._by_fold:
                    self._report(event.kl, event.fold)
                last = event.fold == event.folds - 1
            case FoldStarted():
                last = False
            case _:
                return False
        if event.replayed:
            if self._keeps_rungs and self._undecided:
                # Asking notes the value of each rung in the new attempt; the answer was given before.
                self._trial.should_prune()
            return False
        return self._decide(nothing_left=last)

    def _report(self, value: float, step: int) -> None:
        if step not in self._reported:
            self._reported.add(step)
            self._trial.report(value, step)
            self._undecided = True

    def _decide(self, *, nothing_left: bool) -> bool:
        """Ask the pruner once per report, and not when the trial is through anyway."""
        undecided, self._undecided = self._undecided, False
        return undecided and not nothing_left and self._trial.should_prune()

    def _check_finite(self, value: float, fold: int, place: str) -> None:
        if not math.isfinite(value):
            raise NonFiniteLossError(
                f"the validation KL is {value} at {place} of fold {fold}",
                where=f"trial {self._trial.number}",
                hint="A smaller learning_rate, grad_clip: 1.0 or precision: float32 usually fixes it",
            )


class RungWatch:
    """Sees when a trial reaches its next rung.

    Parameters
    ----------
    rungs : steps at which trials pause, ascending; the last one is the end of a trial
    epochs : the most epochs of a fold
    passed : the rung at which the trial paused last; 0: none
    """

    def __init__(self, rungs: Sequence[int], epochs: int, *, passed: int = 0) -> None:
        self._pauses = [rung for rung in rungs[:-1] if rung > passed]
        self._last = rungs[-1]
        self._epochs = epochs
        self._estimates: dict[int, float] = {}

    @property
    def next_step(self) -> int:
        """The step of the next rung, or the last step."""
        return self._pauses[0] if self._pauses else self._last

    @property
    def reached(self) -> tuple[int, float] | None:
        """The next rung and the estimate there, once the trial is as far; None before."""
        if not self._pauses or max(self._estimates, default=0) < self._pauses[0]:
            return None
        rung = self._pauses[0]
        before = [step for step in self._estimates if step <= rung]
        # A fold that stopped early may have ended before the rung, with its last epoch's estimate.
        return rung, self._estimates[max(before, default=min(self._estimates))]

    def observe(self, event: Event) -> None:
        """Take in an event."""
        if isinstance(event, EpochEnded):
            self._estimates[event.fold * self._epochs + event.epoch + 1] = event.estimate

    def pass_rung(self) -> None:
        """Go on to the next rung."""
        while self.reached is not None:
            self._pauses.pop(0)


def rungs_of(study_file: StudyFile) -> tuple[int, ...]:
    """The steps at which the trials of a study pause, and its last step; only the last where none pauses."""
    scheduler = study_file.search.scheduler
    if not isinstance(scheduler, PromotionScheduler):
        return (study_file.max_epochs * study_file.max_folds,)
    return rungs(study_file.max_epochs, study_file.max_folds, (*scheduler.rungs, 1.0))


def make_promotion(study_file: StudyFile) -> Promotion | None:
    """Which paused trial of a study goes on; None where trials do not pause."""
    scheduler = study_file.search.scheduler
    if not isinstance(scheduler, PromotionScheduler):
        return None
    return Promotion(rungs_of(study_file), scheduler.reduction_factor)


def fold_of_step(step: int, study_file: StudyFile) -> int:
    """The fold, from 0, in which a trial of the study reports at this step."""
    if study_file.search.pruner.compares_whole_folds:
        return step
    return (step - 1) // study_file.max_epochs


def rule_text(study_file: StudyFile) -> str:
    """By what rule trials are paused or given up: ``promotion after 2, 4, 9 of 45 epochs, one in 4``."""
    search = study_file.search
    if not isinstance(search.scheduler, PromotionScheduler):
        return f"pruner {search.pruner.name}"
    *pauses, last = rungs_of(study_file)
    places = ", ".join(map(str, pauses))
    return f"promotion after {places} of {last} epochs, one in {search.scheduler.reduction_factor}"
