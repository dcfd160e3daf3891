"""What a trial reports to Optuna, and when it is asked whether to go on.

With every pruner but one, a trial reports after each epoch its cross-validation estimate (the mean of the
best KL of every finished fold and of the current one) at step ``fold · max_epochs + epoch + 1``. The Wilcoxon
pruner compares trials fold by fold: for it a trial reports the fold's KL at step ``fold`` when a fold ends.
"""

from __future__ import annotations

import math

import optuna

from hms_tune.config.study_file import StudyFile
from hms_tune.config.study_sections import HyperbandPruner, SuccessiveHalvingPruner, WilcoxonPruner
from hms_tune.errors import NonFiniteLossError
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
        self._by_fold = isinstance(pruner, WilcoxonPruner)
        self._keeps_rungs = isinstance(pruner, SuccessiveHalvingPruner | HyperbandPruner)
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
                mend="A smaller learning_rate, grad_clip: 1.0 or precision: float32 usually mends it",
            )


def fold_of_step(step: int, study_file: StudyFile) -> int:
    """The fold, from 0, in which a trial of the study reports at this step."""
    if isinstance(study_file.search.pruner, WilcoxonPruner):
        return step
    return (step - 1) // study_file.max_epochs
