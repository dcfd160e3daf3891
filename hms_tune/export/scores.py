"""What an exported trial is worth, beside what knowing nothing but the class shares would be."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hms_tune.data.labels import HIGH_VOTES
from hms_tune.errors import BundleError
from hms_tune.training.events import CrossValidationEnded
from hms_tune.training.optimism.correction import Corrected, corrected
from hms_tune.training.scores import kl_divergence, kl_per_row, patient_interval

if TYPE_CHECKING:
    from hms_tune.training.trial_data import TrialData

METRICS = "metrics.json"
"""The file of a bundle that holds its scores."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """KL divergences of an exported trial; lower is better, 0 is perfect.

    ``prior_kl`` predicts each fold with the mean target of its training rows, ``held_out_prior_kl`` the
    held-out patients with that of all other rows. ``held_out_interval`` encloses 95 % of bootstraps over
    patients. ``search_kl`` is what the search saw. ``corrected`` is ``kl`` without what the choice of epochs
    flatters, ``search_corrected`` is ``search_kl`` without what that and the choice among trials flatter. A
    score is None where there are no such rows.
    """

    kl: float
    prior_kl: float
    fold_kl: tuple[float, ...]
    best_epochs: tuple[int, ...]
    rows: int
    kl_all_rows: float
    high_vote_rows: int
    kl_high_vote: float | None
    held_out_rows: int
    held_out_kl: float | None
    held_out_prior_kl: float | None
    held_out_interval: tuple[float, float] | None
    search_kl: float | None
    corrected: Corrected | None = None
    search_corrected: Corrected | None = None

    def as_json(self) -> dict[str, Any]:
        """The scores as plain JSON values."""
        return asdict(self)


_NAMES = tuple(field.name for field in fields(Scores))
_CORRECTED = ("corrected", "search_corrected")


def read_scores(bundle: Path) -> Scores:
    """The scores that lie in a bundle's ``metrics.json``.

    Raises
    ------
    BundleError
        If it is missing or damaged.
    """
    path = bundle / METRICS
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        values = {name: content[name] for name in _NAMES if name not in _CORRECTED}
        given = {name: content.get(name) for name in _CORRECTED}  # absent in earlier versions
        values |= {name: None if each is None else Corrected.from_json(each) for name, each in given.items()}
    except (OSError, ValueError, TypeError, LookupError, OverflowError) as error:
        raise BundleError("the scores cannot be read", where=path, hint="Export the trial again") from error
    values |= {name: tuple(values[name]) for name in ("fold_kl", "best_epochs")}
    if values["held_out_interval"] is not None:
        values["held_out_interval"] = tuple(values["held_out_interval"])
    return Scores(**values)


def scores_of(
    ended: CrossValidationEnded,
    data: TrialData,
    *,
    held_out_probabilities: NDArray[np.float32],
    search_kl: float | None,
    search_corrected: Corrected | None = None,
) -> Scores:
    """Scores of a finished cross-validation and of its ensemble on the held-out patients."""
    targets, held_out = data.labels.targets, data.held_out_rows
    seen = np.setdiff1d(np.arange(len(targets)), held_out)
    return Scores(
        kl=ended.kl,
        prior_kl=float(np.mean([data.prior_kl(fold) for fold in range(len(ended.fold_kl))])),
        fold_kl=ended.fold_kl,
        best_epochs=tuple(epoch + 1 for epoch in ended.best_epochs),
        rows=len(ended.out_of_fold.row),
        kl_all_rows=ended.kl_all_rows,
        high_vote_rows=int((ended.out_of_fold.total_votes >= HIGH_VOTES).sum()),
        kl_high_vote=_finite(ended.kl_high_vote),
        held_out_rows=len(held_out),
        held_out_kl=_finite(kl_divergence(targets[held_out], held_out_probabilities)),
        held_out_prior_kl=_finite(_kl_of_mean(targets[seen], targets[held_out])),
        held_out_interval=patient_interval(
            kl_per_row(targets[held_out], held_out_probabilities), data.labels.patient_id[held_out]
        ),
        search_kl=search_kl,
        corrected=corrected([[ended.out_of_fold.epochs]]) if ended.out_of_fold.epochs else None,
        search_corrected=search_corrected,
    )


def _kl_of_mean(known: NDArray[np.float32], unknown: NDArray[np.float32]) -> float:
    if not len(unknown):
        return math.nan
    mean = known.mean(axis=0, dtype=np.float64)
    return kl_divergence(unknown, np.broadcast_to(mean, unknown.shape))


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
