"""Which models a blend is made of: greedy selection with replacement, judged on other patients.

Caruana, Niculescu-Mizil, Crew and Ksikes, "Ensemble selection from libraries of models", ICML 2004.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hms_tune.errors import UsageError
from hms_tune.training.scores import (
    CLIP,
    difference_interval,
    interval_in_words,
    kl_per_row,
    patient_interval,
)

Floats = NDArray[np.float64]

ROUNDS = 40
"""How often a model is added; a weight is a multiple of one part in as many as were kept."""

GROUPS = 5
"""Parts of the patients: weights of four are judged on the fifth."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Blending:
    """The weights of models, and what their blend is worth.

    Attributes
    ----------
    weights : of each model, summing to 1; 0 for one that is not taken
    kl : of patients whose predictions had no part in the weights that blend them
    interval : of ``kl`` over patients; None with fewer than two
    single_kl : of the best model alone, chosen on the same patients as the weights
    gain : interval of ``single_kl`` − ``kl`` over patients; None with fewer than two
    patients, rows : over how many
    """

    weights: tuple[float, ...]
    kl: float
    interval: tuple[float, float] | None
    single_kl: float
    gain: tuple[float, float] | None
    patients: int
    rows: int

    def __str__(self) -> str:
        """A sentence or two."""
        text = f"out-of-fold KL {self.kl:.4f}"
        text += interval_in_words(self.interval, self.patients)
        text += f"; the best of them alone {self.single_kl:.4f}"
        if self.gain is not None:
            text += f", a gain of {self.gain[0]:.4f} to {self.gain[1]:.4f}"
        return text + ". Weights of four parts of the patients are judged on the fifth."


def choose_blend(
    predictions: NDArray[np.floating],
    targets: NDArray[np.floating],
    patient_id: NDArray[np.int64],
    *,
    most: int | None = None,
) -> Blending:
    """Choose weights on all patients, and tell what weights chosen in this way are worth on others.

    Parameters
    ----------
    predictions : array, shape (n_models, n_rows, n_classes), of models that never saw the row's patient
    targets : array, shape (n_rows, n_classes)
    patient_id : int64 array, shape (n_rows,)
    most : most models with a weight; None: as many as help

    Raises
    ------
    UsageError
        With fewer than two patients: nothing is left to judge on.
    """
    if len(np.unique(patient_id)) < 2:
        raise UsageError("a blend needs predictions of two patients or more")
    predictions, targets = predictions.astype(np.float64), targets.astype(np.float64)
    blended, single = np.empty_like(targets), np.empty_like(targets)
    for judged in groups(patient_id):
        known = ~judged
        weights = greedy_weights(predictions[:, known], targets[known], most=most)
        blended[judged] = mix(predictions[:, judged], weights)
        best = int(np.argmin(_losses(predictions[:, known], targets[known])))
        single[judged] = predictions[best, judged]
    kl, single_kl = kl_per_row(targets, blended), kl_per_row(targets, single)
    return Blending(
        weights=tuple(greedy_weights(predictions, targets, most=most).tolist()),
        kl=float(kl.mean()),
        interval=patient_interval(kl, patient_id),
        single_kl=float(single_kl.mean()),
        gain=difference_interval(single_kl, kl, patient_id),
        patients=len(np.unique(patient_id)),
        rows=len(targets),
    )


def greedy_weights(
    predictions: NDArray[np.floating], targets: NDArray[np.floating], *, most: int | None = None
) -> Floats:
    """Add, again and again, the model whose addition to the mean lowers the KL most.

    Parameters
    ----------
    predictions : shape (n_models, n_rows, n_classes)
    targets : shape (n_rows, n_classes)
    most : most models with a weight

    Returns
    -------
    float64 array, shape (n_models,), summing to 1: the counts at the round with the smallest KL
    """
    counts = np.zeros(len(predictions))
    total = np.zeros(targets.shape)
    best, best_counts = np.inf, counts
    for size in range(1, ROUNDS + 1):
        allowed = np.ones(len(predictions), bool)
        if most is not None and np.count_nonzero(counts) >= most:
            allowed = counts > 0
        losses = np.where(allowed, _losses((total + predictions) / size, targets), np.inf)
        added = int(np.argmin(losses))
        counts[added] += 1
        total = total + predictions[added]
        if losses[added] < best - 1e-12:
            best, best_counts = float(losses[added]), counts.copy()
    chosen: Floats = best_counts / best_counts.sum()
    return chosen


def mix(predictions: NDArray[np.floating], weights: Sequence[float] | Floats) -> Floats:
    """The weighted mean of models' predictions: shape (n_rows, n_classes)."""
    mixed: Floats = np.tensordot(np.asarray(weights, np.float64), np.asarray(predictions, np.float64), axes=1)
    return mixed


def _losses(predictions: NDArray[np.floating], targets: NDArray[np.floating]) -> Floats:
    """What of the mean KL differs from model to model: shape (n_models,)."""
    losses: Floats = -np.einsum("rc,mrc->m", targets, np.log(np.clip(predictions, CLIP, 1.0 - CLIP)))
    return losses / len(targets)


def groups(patient_id: NDArray[np.int64]) -> list[NDArray[np.bool_]]:
    """Rows of each part of the patients; the parts do not depend on the order of rows."""
    patients, place = np.unique(patient_id, return_inverse=True)
    part = np.random.default_rng(0).permutation(len(patients)) % min(GROUPS, len(patients))
    return [part[place] == each for each in range(part.max() + 1)]
