"""How good trials are: by fold, and over the out-of-fold predictions of one, with how far to trust that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hms_tune.data.labels import HIGH_VOTES
from hms_tune.studies.trial_record import TrialRecord
from hms_tune.training.events import OutOfFold
from hms_tune.training.scores import Score, score


@dataclass(frozen=True, slots=True)
class FoldSpread:
    """A trial's KL and that of each of its folds. ``trial`` is its number, ``folds`` are theirs, from 1."""

    trial: int
    mean: float
    folds: tuple[int, ...]
    kl: tuple[float, ...]


def fold_spread(trials: Sequence[TrialRecord]) -> list[FoldSpread]:
    """How far the folds of trials lie apart; of a fold that did not end nothing is known."""
    found = []
    for trial in trials:
        ended = [(fold.fold + 1, fold.kl) for fold in trial.folds if fold.kl is not None]
        if trial.folds:
            folds, kl = tuple(fold for fold, _ in ended), tuple(kl for _, kl in ended)
            found.append(FoldSpread(trial.trial, trial.value or 0.0, folds, kl))
    return found


def deciding_score(trial: TrialRecord, predictions: OutOfFold | None) -> Score | None:
    """The score on the rows that decide (``data.judged_on``), all folds pooled, with its interval."""
    if predictions is None or not len(predictions.row):
        return None
    judged_on = (trial.config or {}).get("data", {}).get("judged_on", "all_rows")
    chosen = None if judged_on == "all_rows" else predictions.total_votes >= HIGH_VOTES
    return score("all rows" if chosen is None else f"rows with ≥{HIGH_VOTES} votes", predictions, chosen)


def in_words(found: Score) -> str:
    """The score with its interval and what it is over."""
    text = f"{found.kl:.4f} over {found.name} of all folds"
    if found.interval is None:
        return text
    low, high = found.interval
    return f"{text} (95 % interval {low:.3f}–{high:.3f} over {found.patients} patients)"
