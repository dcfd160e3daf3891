"""Out-of-fold scores without what choosing flatters them: of each fold's epoch, and of a trial among many.

The patients that judge a fold also choose its best epoch, and those of all folds choose the best trial; the
smallest of many noisy numbers is too good. So patients are drawn with replacement, again and again, epochs
and trial are chosen by those drawn, and each patient is judged by choices that it had no part in. For
patient i, whose KL is L_i, and draws b = 1, …, B with choices c_b::

    corrected L_i = mean of L_i(c_b) over the draws b that lack patient i

That is the leave-one-out bootstrap: Efron, "Estimating the error rate of a prediction rule", J Am Stat Assoc
1983;78:316; Efron and Tibshirani, "Improvements on cross-validation", J Am Stat Assoc 1997;92:548. The
interval begins from that of the score as it was chosen, since means over many choices vary less from patient
to patient than what was chosen. How much choosing flattered is itself known roughly, so the interval encloses
both: that of the score as it was chosen, and the same times corrected score over chosen score.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from hms_tune.training.events import EpochScores
from hms_tune.training.scores import interval_in_words, interval_of_sums

DRAWS = 400
"""How many times patients are drawn; a patient is missing in one of e draws."""

MOST_CANDIDATES = 32
"""The leading trials that are drawn from; one that is further behind is hardly ever the best of a draw."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Corrected:
    """A KL without the optimism of its choices, for patients like these.

    ``kl`` is a mean over folds, as the search scores a trial, ``interval`` encloses 95 % over the patients.
    ``candidates`` is among how many the trial was chosen; 1: only its epochs were.
    """

    kl: float
    interval: tuple[float, float] | None
    patients: int
    candidates: int

    @property
    def name(self) -> str:
        """What it is, in a few words."""
        choices = "the choice of epochs"
        if self.candidates > 1:
            choices += f" and of the best of {self.candidates}"
        return f"corrected for {choices}"

    @classmethod
    def from_json(cls, stored: Any) -> Self:
        """Rebuild from the fields as JSON has them.

        Raises
        ------
        ValueError, TypeError, LookupError, OverflowError
            If these are none.
        """
        kl, interval = float(stored["kl"]), stored["interval"]
        if interval is not None:
            low, high = interval
            interval = float(low), float(high)
        return cls(kl, interval, int(stored["patients"]), int(stored["candidates"]))

    def __str__(self) -> str:
        return f"{self.kl:.4f}{interval_in_words(self.interval, self.patients)}, {self.name}"


def corrected(
    candidates: Sequence[Sequence[EpochScores]], *, draws: int = DRAWS, seed: int = 0
) -> Corrected | None:
    """What the best candidate is worth on patients that chose neither it nor the epochs of its folds.

    Parameters
    ----------
    candidates : of each, its runs; its score is their mean. One candidate: only epochs are chosen. Those of
        other patients than the first's are left out
    draws, seed : how often patients are drawn, and of what; equal seeds give equal scores

    Returns
    -------
    The score; None without candidates, or where a patient is alone in its fold: nobody else could choose
    """
    if not candidates or not all(candidates):
        return None
    patients = np.unique(candidates[0][0].patient_id)
    runs = [
        [_Run(run, patients) for run in each]
        for each in candidates
        if all(np.array_equal(np.unique(run.patient_id), patients) for run in each)
    ]
    count = len(patients)
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=draws)
    scores = [np.mean([run.choose(drawn)[1] for run in each], axis=0) for each in runs]
    best = np.argmin(scores, axis=0)
    sums, weights, judged = np.zeros(count), np.zeros(count), np.zeros(count)
    for place in np.unique(best):
        chosen = drawn[best == place]
        for run in runs[place]:
            values, weight = run.judged(chosen)
            sums += values
            weights += weight
        judged += (chosen == 0).sum(axis=0) * len(runs[place])
    if (weights == 0.0).any():
        return None
    kl = float(np.average(sums / weights, weights=weights / judged))
    chosen, shares = min((_as_chosen(each, count) for each in runs), key=lambda found: found[0].sum())
    interval, score = interval_of_sums(chosen, shares), float(chosen.sum())
    if interval is not None and score > 0.0:
        interval = interval[0] * min(1.0, kl / score), interval[1] * max(1.0, kl / score)
    return Corrected(kl, interval, count, len(runs))


def _as_chosen(runs: Sequence[_Run], count: int) -> tuple[Floats, Floats]:
    """By patient: weighted KL at the best epochs of a candidate's runs, and weights, which sum to 1."""
    parts = [run.at(run.choose(np.ones((1, count), np.int64))[0][0], count) for run in runs]
    sums, weights = (np.mean(each, axis=0) for each in zip(*parts, strict=True))
    return sums, weights


class _Run:
    """One run's folds, and the place of each of their columns among all patients."""

    def __init__(self, scores: EpochScores, patients: NDArray[np.int64]) -> None:
        self._place = np.searchsorted(patients, scores.patient_id)
        self._rows = scores.rows.astype(np.float64)
        numbers = np.unique(scores.fold)
        self._columns = [np.flatnonzero(scores.fold == number) for number in numbers]
        self._kl = []
        self._share = np.zeros(len(scores.fold))
        for columns in self._columns:
            kl = scores.kl[:, columns].astype(np.float64)
            self._kl.append(kl[np.isfinite(kl).all(axis=1)])
            self._share[columns] = self._rows[columns] / self._rows[columns].sum() / len(numbers)

    def choose(self, drawn: NDArray[np.int64]) -> tuple[NDArray[np.int64], Floats]:
        """The best epoch of each fold in each draw, int64 (n_draws, n_folds), and the mean of their KL.

        An epoch is -1 where a draw holds no patient of the fold; the mean is over the other folds.
        """
        epochs = np.full((len(drawn), len(self._columns)), -1)
        best = np.full(epochs.shape, np.nan)
        for fold, (columns, kl) in enumerate(zip(self._columns, self._kl, strict=True)):
            weights = drawn[:, self._place[columns]] * self._rows[columns]
            total = weights.sum(axis=1)
            some = total > 0.0
            means = weights[some] @ kl.T / total[some, None]
            epochs[some, fold] = means.argmin(axis=1)
            best[some, fold] = means.min(axis=1)
        return epochs, np.nanmean(best, axis=1)

    def judged(self, drawn: NDArray[np.int64]) -> tuple[Floats, Floats]:
        """By patient: weighted KL, and weights, over the draws that lack it; both float64 (n_patients,)."""
        epochs, _ = self.choose(drawn)
        sums, weights = np.zeros(drawn.shape[1]), np.zeros(drawn.shape[1])
        for fold, (columns, kl) in enumerate(zip(self._columns, self._kl, strict=True)):
            place, share = self._place[columns], self._share[columns]
            out = (drawn[:, place] == 0) & (epochs[:, fold] >= 0)[:, None]
            sums[place] += share * (kl[epochs[:, fold]] * out).sum(axis=0)
            weights[place] += share * out.sum(axis=0)
        return sums, weights

    def at(self, epochs: NDArray[np.int64], patients: int) -> tuple[Floats, Floats]:
        """By patient: weighted KL at an epoch of each fold, and weights; both float64 (n_patients,)."""
        sums, weights = np.zeros(patients), np.zeros(patients)
        for columns, kl, epoch in zip(self._columns, self._kl, epochs, strict=True):
            sums[self._place[columns]] += self._share[columns] * kl[epoch]
            weights[self._place[columns]] += self._share[columns]
        return sums, weights
