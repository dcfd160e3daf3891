"""How a trial that is known in part stands beside complete ones.

Folds are not equally hard, so an estimate after some of them is on another scale than a score over all.
Before training only the class prior tells how hard a fold is (:mod:`hms_tune.training.fold_difficulty`), and
a network may find another one easy. Once some trials are complete they tell it: what they had come to in the
mean after the same fold, and what they ended at (``benchmarks/search.py`` compares the two ways).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Self

FEWEST = 5
"""Complete trials from which on they tell how hard the folds are."""

_NOT_COMPARABLE = "not comparable yet"

Curve = tuple[Mapping[int, float], float]
"""What a complete trial reported by step, and the score that it ended at."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A KL known in part.

    Attributes
    ----------
    value : on the scale of complete trials, as far as that is known
    fold, folds : the fold that it is known up to, from 1, and how many a trial has
    remark : what must be said beside it; empty: nothing
    """

    value: float
    fold: int
    folds: int
    remark: str

    @property
    def is_comparable(self) -> bool:
        """Whether a value below the best score says anything."""
        return self.remark != _NOT_COMPARABLE


@dataclass(frozen=True, slots=True)
class Standing:
    """What a partial estimate is held against.

    Attributes
    ----------
    best : the score of the best complete trial; None: there is none
    ratios : by what an estimate after each fold is multiplied; empty: too few trials are complete
    """

    best: float | None = None
    ratios: tuple[float, ...] = ()

    @classmethod
    def of(cls, complete: Iterable[Curve], epochs: int) -> Self:
        """Learn from complete trials.

        Parameters
        ----------
        epochs : the most epochs of a fold
        """
        curves = [curve for curve in complete if curve[0]]
        best = min((value for _, value in curves), default=None)
        if len(curves) < FEWEST or epochs < 1:
            return cls(best)
        folds = min(-(-max(reported) // epochs) for reported, _ in curves)
        total = sum(value for _, value in curves)
        ratios = []
        for fold in range(1, folds + 1):
            ends = [reported[max(s for s in reported if s <= fold * epochs)] for reported, _ in curves]
            ratios.append(total / sum(ends))
        return cls(best, tuple(ratios))

    def comparable(self, estimate: float, fold: int) -> float:
        """An estimate in a fold, from 1, on the scale of complete trials, as far as that is known."""
        return estimate * self.ratios[fold - 1] if 0 < fold <= len(self.ratios) else estimate

    def remark(self, estimate: float, fold: int, folds: int) -> str:
        """What must be said beside a comparable estimate that is below the best score; empty: nothing."""
        if self.best is None or estimate >= self.best:
            return ""
        known = bool(self.ratios) or fold >= folds
        return "below the best so far" if known else _NOT_COMPARABLE

    def estimate(self, reported: float, fold: int, folds: int) -> Estimate:
        """What a trial reported in a fold, from 1, as it is shown beside complete ones."""
        value = self.comparable(reported, fold)
        return Estimate(value, fold, folds, self.remark(value, fold, folds))

    def text(self, estimate: float | None, fold: int, folds: int) -> str:
        """``≈ 1.0243 in fold 1 of 5``, and whether that is below the best."""
        if estimate is None:
            return "–"
        shown = self.estimate(estimate, fold, folds)
        return f"≈ {shown.value:.4f} in fold {fold} of {folds}" + (
            f", {shown.remark}" if shown.remark else ""
        )
