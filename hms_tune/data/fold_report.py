"""How alike the folds are: rows, patients, classes and votes of each."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hms_tune.data.folds import HELD_OUT
from hms_tune.data.labels import HIGH_VOTES, Labels
from hms_tune.data.schema import CLASSES
from hms_tune.errors import DataError


@dataclass(frozen=True, slots=True)
class FoldSummary:
    """The rows that one fold validates on, or those held out of the search.

    Parameters
    ----------
    repeat : which shuffle of the patients, from 0; None for the held-out rows, which all repeats share
    fold : number of the fold; None for the held-out rows
    rows, eegs, patients : counts
    high_vote_rows : rows with at least :data:`~hms_tune.data.labels.HIGH_VOTES` experts
    median_votes : median number of experts of a row
    consensus_shares : share of rows whose most-voted class is this one
    vote_shares : mean share of each row's votes, by class
    """

    repeat: int | None
    fold: int | None
    rows: int
    eegs: int
    patients: int
    high_vote_rows: int
    median_votes: float
    consensus_shares: dict[str, float]
    vote_shares: dict[str, float]


@dataclass(frozen=True, slots=True)
class FoldReport:
    """Every fold of every repeat, and how far they lie apart.

    Parameters
    ----------
    folds : repeat by repeat, fold by fold
    held_out : the rows that no trial sees; None when there are none
    vote_share_spread : by class, the largest less the smallest mean vote share over all folds
    row_ratio : rows of the largest fold over those of the smallest
    """

    folds: list[FoldSummary]
    held_out: FoldSummary | None
    vote_share_spread: dict[str, float]
    row_ratio: float


def fold_report(labels: Labels, folds: NDArray[np.int64]) -> FoldReport:
    """Describe each fold.

    Parameters
    ----------
    labels : the rows
    folds : int64 (fold_repeats, n), of :func:`hms_tune.data.folds.assign_folds`

    Raises
    ------
    DataError
        If a patient is on both sides of a split, which ``assign_folds`` never does.
    """
    refuse_leaks(labels, folds)
    summaries = [
        _summary(labels, np.flatnonzero(numbers == fold), repeat, fold)
        for repeat, numbers in enumerate(folds)
        for fold in range(int(numbers.max()) + 1)
    ]
    outside = np.flatnonzero(folds[0] == HELD_OUT)
    shares = np.array([list(summary.vote_shares.values()) for summary in summaries])
    rows = [summary.rows for summary in summaries]
    return FoldReport(
        folds=summaries,
        held_out=_summary(labels, outside, None, None) if outside.size else None,
        vote_share_spread=_by_class(np.ptp(shares, axis=0)),
        row_ratio=max(rows) / min(rows),
    )


def refuse_leaks(labels: Labels, folds: NDArray[np.int64]) -> None:
    """Raise if a patient has rows in two folds of one repeat, or both in a fold and among those held out.

    Raises
    ------
    DataError
        Naming the first such patient.
    """
    for repeat, numbers in enumerate(folds):
        pairs = np.unique(np.stack([labels.patient_id, numbers]), axis=1)
        patients, counts = np.unique(pairs[0], return_counts=True)
        if (counts > 1).any():
            patient = int(patients[counts > 1][0])
            sides = sorted(pairs[1, pairs[0] == patient].tolist())
            names = ["held out" if side == HELD_OUT else f"in fold {side}" for side in sides]
            raise DataError(
                f"patient {patient} is {' and '.join(names)} of repeat {repeat}",
                where="train.csv, column patient_id",
                hint="Every patient must be on one side of a split: assign the folds by patient.",
            )


def _summary(labels: Labels, rows: NDArray[np.int64], repeat: int | None, fold: int | None) -> FoldSummary:
    part = labels.take(rows)
    consensus = np.bincount(part.votes.argmax(axis=1), minlength=len(CLASSES)) / len(part)
    return FoldSummary(
        repeat=repeat,
        fold=fold,
        rows=len(part),
        eegs=len(np.unique(part.eeg_id)),
        patients=len(np.unique(part.patient_id)),
        high_vote_rows=int((part.total_votes >= HIGH_VOTES).sum()),
        median_votes=float(np.median(part.total_votes)),
        consensus_shares=_by_class(consensus),
        vote_shares=_by_class(part.targets.mean(axis=0)),
    )


def _by_class(values: NDArray[np.floating]) -> dict[str, float]:
    return dict(zip(CLASSES, np.asarray(values, dtype=np.float64).tolist(), strict=True))
