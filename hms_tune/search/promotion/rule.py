"""Asynchronous successive halving with promotion: trials are set aside at rungs and taken up again.

A rung is a step, counted as in :mod:`hms_tune.search.reports`. A trial pauses at every rung. The best of
those that reached a rung go on to the next one; a trial that is not among them now may be later, since
nothing is thrown away before the study ends.

References
----------
Li et al., "A System for Massively Parallel Hyperparameter Tuning", MLSys 2020, in the form that pauses.
Swersky, Snoek and Adams, "Freeze-Thaw Bayesian Optimization", 2014.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import inf, sqrt

from hms_tune.config.study_sections import PromotionScheduler
from hms_tune.search.promotion.drift import Drift
from hms_tune.search.promotion.progress import TrialProgress

SHARES = (*PromotionScheduler().rungs, 1.0)
"""What a trial has trained at each rung, as shares of all its epochs; chosen by ``benchmarks/search.py``."""

REDUCTION_FACTOR = PromotionScheduler().reduction_factor
"""One in so many goes on from a rung; chosen by ``benchmarks/search.py``."""


def rungs(epochs: int, folds: int, shares: Sequence[float] = SHARES) -> tuple[int, ...]:
    """The steps at which trials pause; the last one is the end.

    Below half a fold a rung is a whole number of epochs, above it a whole number of folds, so that several
    workers may train the folds that follow.

    Parameters
    ----------
    epochs : the most epochs of a fold
    folds : how many folds a trial trains
    shares : of a full trial, ascending, ending at 1
    """
    steps = epochs * folds
    found = {steps}
    for share in shares:
        trained = share * steps
        whole_folds = epochs * max(round(trained / epochs), 1)
        found.add(max(round(trained), 1) if trained < epochs / 2 else min(whole_folds, steps))
    return tuple(sorted(found))


@dataclass(frozen=True, slots=True)
class RungStanding:
    """How things stand at a rung, of all that the rule needs to know of it.

    Attributes
    ----------
    rung : the step
    reached : how many trials have reached it
    paused : number of the best trial that is paused there; None: none is
    better : how many of those who reached it were better there than that one
    """

    rung: int
    reached: int
    paused: int | None
    better: int


@dataclass(frozen=True, slots=True)
class Promotion:
    """Which paused trial goes on.

    Attributes
    ----------
    rungs : steps at which trials pause, ascending; the last one is the end of a trial
    reduction_factor : one in so many goes on from a rung
    """

    rungs: tuple[int, ...]
    reduction_factor: int = REDUCTION_FACTOR

    def level(self, trial: TrialProgress) -> int:
        """The number of the highest rung that a trial reached; -1: none."""
        return bisect_right(self.rungs, trial.step) - 1

    @property
    def pauses(self) -> tuple[int, ...]:
        """The rungs from which trials are promoted."""
        return self.rungs[:-1]

    def next(self, trials: Iterable[TrialProgress]) -> int | None:
        """The number of the paused trial that goes on now; None: a new one begins.

        A trial that pauses between two rungs was interrupted on its way: it goes on before all others.
        """
        known = list(trials)
        interrupted = [each for each in known if each.state == "paused" and each.step not in self.rungs]
        if interrupted:
            return min(interrupted, key=lambda trial: (-trial.step, trial.number)).number
        return self.best(self._standings(known))

    def best(self, standings: Iterable[RungStanding]) -> int | None:
        """The number of the paused trial that is promoted: from the highest rung where one is good enough."""
        for at in sorted(standings, key=lambda each: -each.rung):
            if at.paused is not None and at.better < at.reached // self.reduction_factor:
                return at.paused
        return None

    def _standings(self, known: Sequence[TrialProgress]) -> list[RungStanding]:
        found = []
        for level, rung in enumerate(self.pauses):
            ranked = self._ranked(known, level)
            paused = (
                (place, trial.number)
                for place, trial in enumerate(ranked)
                if trial.state == "paused" and self.level(trial) == level
            )
            better, number = next(paused, (0, None))
            found.append(RungStanding(rung, len(ranked), number, better))
        return found

    def finish(self, trials: Iterable[TrialProgress], left: float = inf) -> list[int]:
        """Which paused trials to train to their end when no new one begins any more, the best first.

        A trial is worth it when its predicted score, less one standard deviation of what such predictions
        err by, is below the best complete one. Where no trial is complete the most advanced one is worth it.

        Parameters
        ----------
        trials : all trials
        left : steps that may still be trained
        """
        known = list(trials)
        drift = Drift.of(known, self.rungs)
        best = min(
            (trial.estimates[max(trial.estimates)] for trial in known if trial.state == "complete"),
            default=inf,
        )
        waiting = []
        for trial in known:
            if trial.state != "paused" or (level := self.level(trial)) < 0:
                continue
            predicted = trial.value(self.rungs[level]) + drift.shift[level]
            if predicted - sqrt(drift.variance[level]) < best:
                waiting.append(
                    (-level if best == inf else 0, predicted, trial.number, self.rungs[-1] - trial.step)
                )
        chosen: list[int] = []
        for _, _, number, steps in sorted(waiting):
            if steps <= left:
                chosen.append(number)
                left -= steps
                if best == inf:
                    break
        return chosen

    def places(self, most: int) -> dict[int, int]:
        """How many of those who reach a rung can be promoted from there, at the most, by rung.

        Who is paused there and has as many better ones is hopeless.

        Parameters
        ----------
        most : how many trials the study has in all
        """
        return {
            rung: max(most // self.reduction_factor ** (level + 1), 1)
            for level, rung in enumerate(self.pauses)
        }

    def hopeless(self, trials: Iterable[TrialProgress], most: int) -> list[int]:
        """Paused trials that can never be promoted: so many others are better at their rung already.

        Parameters
        ----------
        most : how many trials the study has in all
        """
        known = list(trials)
        return [
            trial.number
            for level, places in enumerate(self.places(most).values())
            for trial in self._ranked(known, level)[places:]
            if trial.state == "paused" and self.level(trial) == level
        ]

    def _ranked(self, trials: Sequence[TrialProgress], level: int) -> list[TrialProgress]:
        """Who reached a rung, the best first."""
        rung = self.rungs[level]
        reached = [(trial.value(rung), trial.number, trial) for trial in trials if trial.step >= rung]
        return [trial for *_, trial in sorted(reached, key=lambda entry: entry[:2])]
