"""Candidates of a search against one another, by out-of-fold predictions of runs with fresh seeds.

What makes a patient hard for one candidate makes it hard for another, so candidates are compared on the same
patients and in runs of the same round. One that is worse than the leader beyond chance is dropped.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from hms_tune.data.labels import HIGH_VOTES
from hms_tune.training.events import EpochScores, OutOfFold
from hms_tune.training.optimism.correction import Corrected, corrected
from hms_tune.training.scores import difference_interval, kl_per_row, patient_interval

Interval = tuple[float, float]

FEWEST_ROUNDS = 2
"""Rounds that both have run before one is dropped: the luck of a single seed is the same for all patients."""


@dataclass(frozen=True, slots=True)
class RowScores:
    """The KL of each row that decides, by a model that never saw its patient.

    ``row`` (ascending) and ``patient_id`` are int64 (n,), ``kl`` float64 (n,). ``epochs`` is what the epochs
    of a single run were chosen by, where that is known.
    """

    row: NDArray[np.int64]
    patient_id: NDArray[np.int64]
    kl: NDArray[np.float64]
    epochs: EpochScores | None = None

    @classmethod
    def of(cls, predictions: OutOfFold, *, all_rows: bool) -> Self:
        """Those of a trial: of all rows, or of those with many votes; repeated folds are averaged."""
        chosen = np.full(len(predictions.row), all_rows) | (predictions.total_votes >= HIGH_VOTES)
        kl = kl_per_row(predictions.targets[chosen], predictions.probabilities[chosen])
        mean = cls._averaged(predictions.row[chosen], predictions.patient_id[chosen], kl)
        return replace(mean, epochs=predictions.epochs)

    @classmethod
    def mean(cls, runs: Sequence[Self]) -> Self:
        """The mean over runs, row by row."""
        return cls._averaged(
            np.concatenate([run.row for run in runs]),
            np.concatenate([run.patient_id for run in runs]),
            np.concatenate([run.kl for run in runs]),
        )

    @classmethod
    def _averaged(
        cls, row: NDArray[np.int64], patient_id: NDArray[np.int64], kl: NDArray[np.float64]
    ) -> Self:
        rows, first, place = np.unique(row, return_index=True, return_inverse=True)
        sums = np.bincount(place, weights=kl, minlength=len(rows))
        return cls(rows.astype(np.int64), patient_id[first], sums / np.bincount(place, minlength=len(rows)))

    @property
    def score(self) -> float:
        """Mean over rows."""
        return float(self.kl.mean())

    @property
    def interval(self) -> Interval | None:
        """Of the score, over patients."""
        return patient_interval(self.kl, self.patient_id)

    def behind(self, leader: Self) -> Interval | None:
        """Interval of this score less the leader's, over the patients of the rows that both have."""
        _, own, others = np.intersect1d(self.row, leader.row, return_indices=True)
        return difference_interval(self.kl[own], leader.kl[others], self.patient_id[own])


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A candidate before and after.

    Attributes
    ----------
    trial : its number in the search
    place_before, search_kl, search_interval : its place among the candidates, and its score, in the search:
        the mean over folds
    runs : how many were made of it with fresh seeds
    kl, interval : mean score of these runs, over rows; None without one
    search_corrected, corrected : these scores without what the choice of epochs flatters, of the first also
        without the choice among the candidates; None where an earlier version trained a run
    behind : interval of its score less the leader's in the rounds that both have run; None of the leader
    dropped : whether it is worse beyond chance
    """

    trial: int
    place_before: int
    search_kl: float
    search_interval: Interval | None = None
    search_corrected: Corrected | None = None
    runs: int = 0
    kl: float | None = None
    interval: Interval | None = None
    corrected: Corrected | None = None
    behind: Interval | None = None
    dropped: bool = False


@dataclass(frozen=True, slots=True)
class Ranking:
    """Candidates, the best confirmed mean first."""

    candidates: tuple[Candidate, ...]

    @property
    def winner(self) -> Candidate | None:
        """The best; None while none has run again."""
        best = next(iter(self.candidates), None)
        return None if best is None or best.kl is None else best

    @property
    def runs(self) -> int:
        """Of all candidates."""
        return sum(each.runs for each in self.candidates)

    def as_json(self) -> list[dict[str, Any]]:
        """For a column of the database."""
        return [asdict(each) for each in self.candidates]

    def rows(self) -> list[list[str]]:
        """A line for each candidate, under :data:`HEADINGS`."""
        return [
            [
                f"{place}" if each.kl is not None else "–",
                f"trial {each.trial}",
                f"{each.place_before}",
                _score(each.search_kl, each.search_interval, each.search_corrected),
                "–" if each.kl is None else _score(each.kl, each.interval, each.corrected),
                f"{each.runs}",
                ("" if each.behind is None else f"{each.behind[0]:+.3f} to {each.behind[1]:+.3f}")
                + (", dropped" if each.dropped else ""),
            ]
            for place, each in enumerate(self.candidates, start=1)
        ]

    def markdown(self) -> str:
        """The same as a table in Markdown."""
        lines = [HEADINGS, ["---"] * len(HEADINGS), *self.rows()]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)

    @classmethod
    def from_json(cls, stored: Sequence[Mapping[str, Any]]) -> Self:
        """Rebuild from :meth:`as_json`."""
        return cls(tuple(Candidate(**{name: _value(each[name]) for name in each}) for each in stored))


HEADINGS = ("place", "candidate", "in the search", "KL there", "confirmed KL", "runs", "less the best")
"""Of what :meth:`Ranking.rows` shows."""

ON_SCORES = (
    "KL out of fold; corrected: without what the choice of epochs flatters, and for the first also that of a "
    "candidate. Intervals enclose 95 % over patients."
)
"""What these scores are."""


def _score(kl: float, interval: Interval | None, without: Corrected | None) -> str:
    """As it was chosen, and corrected with its interval; the plain interval where nothing is corrected."""
    if without is not None:
        return f"{kl:.4f}, corrected {without.kl:.4f}{_in_brackets(without.interval)}"
    return f"{kl:.4f}{_in_brackets(interval)}"


def _in_brackets(interval: Interval | None) -> str:
    return "" if interval is None else f" ({interval[0]:.3f}–{interval[1]:.3f})"


def _value(stored: Any) -> Any:
    if isinstance(stored, dict):
        return Corrected.from_json(stored)
    return tuple(stored) if isinstance(stored, list) else stored


def rank(
    search: Mapping[int, float],
    runs: Mapping[int, Mapping[int, RowScores]],
    *,
    before: Mapping[int, RowScores] | None = None,
) -> Ranking:
    """Rank candidates by the mean of their runs, and drop those that are worse than the leader.

    Parameters
    ----------
    search : score in the search by the candidate's trial, the best first
    runs : by trial, the runs of the candidate by their round
    before : what the candidates' own trials predicted, where that is kept
    """
    means = {trial: RowScores.mean(list(made.values())) for trial, made in runs.items() if made}
    leader = min(means, key=lambda trial: means[trial].score, default=None)
    epochs = {trial: _epochs(made.values()) for trial, made in runs.items() if made}
    candidates = []
    for place, (trial, kl) in enumerate(search.items(), start=1):
        made, mean = runs.get(trial, {}), means.get(trial)
        shared = sorted(made.keys() & runs[leader].keys()) if leader not in (None, trial) else []
        behind = None
        if shared and leader is not None:
            others = RowScores.mean([runs[leader][each] for each in shared])
            behind = RowScores.mean([made[each] for each in shared]).behind(others)
        known = (before or {}).get(trial)
        candidates.append(
            Candidate(
                trial=trial,
                place_before=place,
                search_kl=kl,
                search_interval=None if known is None else known.interval,
                search_corrected=None if known is None else corrected([_epochs([known])]),
                runs=len(made),
                kl=None if mean is None else mean.score,
                interval=None if mean is None else mean.interval,
                corrected=None if mean is None else corrected(_chosen_among(trial, leader, epochs)),
                behind=behind,
                dropped=len(shared) >= FEWEST_ROUNDS and behind is not None and behind[0] > 0.0,
            )
        )
    return Ranking(tuple(sorted(candidates, key=_place)))


def _epochs(runs: Iterable[RowScores]) -> list[EpochScores]:
    """What the epochs of runs were chosen by; nothing where that of one is unknown."""
    known = [run.epochs for run in runs]
    found = [each for each in known if each is not None]
    return found if len(found) == len(known) else []


def _chosen_among(
    trial: int, leader: int | None, epochs: Mapping[int, list[EpochScores]]
) -> list[list[EpochScores]]:
    """A candidate's runs, and of the leader also those of all that it was the best of."""
    return [epochs[trial], *(epochs[other] for other in epochs if trial == leader and other != trial)]


def _place(candidate: Candidate) -> tuple[bool, bool, float, int]:
    kl = candidate.kl
    return candidate.dropped, kl is None, candidate.search_kl if kl is None else kl, candidate.place_before
