"""What a trial's out-of-fold predictions say of its score, and how far to trust that."""

from __future__ import annotations

from hms_tune.data.labels import HIGH_VOTES
from hms_tune.studies.trial_record import TrialRecord
from hms_tune.training.events import OutOfFold
from hms_tune.training.scores import Score, score


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
