"""How good trials are: by fold, and over the out-of-fold predictions of one, with how far to trust that."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from hms_tune.data.labels import HIGH_VOTES
from hms_tune.database.connect import Storage
from hms_tune.studies.trial_record import TrialRecord
from hms_tune.training.events import OutOfFold
from hms_tune.training.optimism.correction import Corrected, corrected
from hms_tune.training.scores import Score, interval_in_words, score

_CORRECTED = "hms_tune:corrected"
"""Study attribute: the best trial when a trial ended last, and its corrected score."""


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


def write_corrected(storage: Storage, study_id: int, trial: int, found: Corrected) -> None:
    """Store the corrected score of a study's best trial, which readers of the database cannot work out."""
    text = json.dumps({"trial": trial, **asdict(found)})
    storage.optuna.set_study_system_attr(study_id, _CORRECTED, text)


def stored_corrected(storage: Storage, study_id: int, trial: int) -> Corrected | None:
    """What was stored of that trial while it was the best; None: nothing, or it was another."""
    text = storage.optuna.get_study_system_attrs(study_id).get(_CORRECTED)
    try:
        stored = json.loads(text or "")
        return Corrected.from_json(stored) if stored["trial"] == trial else None
    except (ValueError, TypeError, LookupError, OverflowError):
        return None


def corrected_score(
    storage: Storage, study_id: int, trial: TrialRecord, predictions: OutOfFold | None
) -> Corrected | None:
    """The score of the best trial without what choosing it and its epochs flatters.

    Where the first is not known, without what the choice of epochs flatters; None: an earlier version
    trained it.
    """
    stored = stored_corrected(storage, study_id, trial.trial)
    if stored is not None or predictions is None or predictions.epochs is None:
        return stored
    return corrected([[predictions.epochs]])


def in_words(found: Score, without: Corrected | None) -> str:
    """The score with its interval and what it is over: corrected, where that is known."""
    plain = f"{found.kl:.4f} over {found.name} of all folds"
    if without is None:
        interval = interval_in_words(found.interval, found.patients)
        return f"{plain}{interval}, not corrected for the choice of its epochs"
    return f"{without}; as it was chosen {plain}"
