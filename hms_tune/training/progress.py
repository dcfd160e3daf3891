"""How far a trial's cross-validation is: what a checkpoint holds, and what a finished one comes to."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hms_tune.data.labels import HIGH_VOTES
from hms_tune.training.events import (
    CrossValidationEnded,
    EpochEnded,
    EpochScores,
    FoldEnded,
    FoldStarted,
    OutOfFold,
)
from hms_tune.training.scores import kl_divergence
from hms_tune.training.trial_data import TrialData

_RECORDED = {kind.__name__: kind for kind in (FoldStarted, EpochEnded, FoldEnded)}
"""Events that a resumed trial yields again."""


@dataclass(slots=True)
class Progress:
    """The events so far, and the fold in progress.

    ``predictions`` are those of each fold's best epoch, ``patient_kl`` what each epoch of a fold came to for
    each patient; the states are those of the fold in progress, None where none was saved.
    """

    events: list[FoldStarted | EpochEnded | FoldEnded] = field(default_factory=list)
    predictions: dict[int, NDArray[np.float32]] = field(default_factory=dict)
    best_weights: dict[str, Tensor] | None = None
    fold_state: dict[str, Any] | None = None
    best_state: dict[str, float | int] | None = None
    patient_kl: dict[int, NDArray[np.float32]] = field(default_factory=dict)

    def add_patient_kl(self, fold: int, kl: NDArray[np.float32]) -> None:
        """Take in an epoch of a fold: float32 ``(n_patients,)``."""
        known = self.patient_kl.get(fold)
        if known is None or known.shape[1:] != kl.shape:  # unequal: nothing that training wrote
            known = np.empty((0, len(kl)), np.float32)
        self.patient_kl[fold] = np.concatenate([known, kl[None]])

    @property
    def folds_done(self) -> list[FoldEnded]:
        """The folds that have ended, in order."""
        return [event for event in self.events if isinstance(event, FoldEnded)]

    def packed(self, config: str, store: str) -> dict[str, Any]:
        """As a checkpoint of a configuration and prepared data with these names."""
        return {
            "config": config,
            "store": store,
            "story": [{"type": type(event).__name__, **asdict(event)} for event in self.events],
            "predictions": {fold: torch.from_numpy(rows) for fold, rows in self.predictions.items()},
            "best_weights": self.best_weights,
            "fold_state": self.fold_state,
            "best_state": self.best_state,
            "patient_kl": {fold: torch.from_numpy(kl) for fold, kl in self.patient_kl.items()},
        }

    @classmethod
    def unpacked(cls, state: dict[str, Any]) -> Self:
        """From :meth:`packed`; earlier versions kept no ``patient_kl``."""
        events = [_RECORDED[record.pop("type")](**record) for record in state["story"]]
        predictions = {fold: rows.numpy() for fold, rows in state["predictions"].items()}
        patient_kl = {fold: kl.float().numpy() for fold, kl in state.get("patient_kl", {}).items()}
        return cls(
            events,
            predictions,
            state["best_weights"],
            state["fold_state"],
            state["best_state"],
            patient_kl,
        )

    def conclusion(self, data: TrialData) -> CrossValidationEnded:
        """What all folds come to."""
        done = self.folds_done
        validated = [data.fold_rows(event.fold)[1] for event in done]
        rows = np.concatenate(validated)
        labels = data.labels
        out_of_fold = OutOfFold(
            row=rows,
            eeg_id=labels.eeg_id[rows],
            patient_id=labels.patient_id[rows],
            fold=np.repeat([event.fold for event in done], [len(each) for each in validated]).astype(
                np.int64
            ),
            probabilities=np.concatenate([self.predictions[event.fold] for event in done]),
            targets=labels.targets[rows],
            total_votes=labels.total_votes[rows],
            epochs=self._epoch_scores(data),
        )
        high = out_of_fold.total_votes >= HIGH_VOTES
        return CrossValidationEnded(
            kl=float(np.mean([event.kl for event in done])),
            kl_all_rows=kl_divergence(out_of_fold.targets, out_of_fold.probabilities),
            kl_high_vote=kl_divergence(out_of_fold.targets[high], out_of_fold.probabilities[high]),
            fold_kl=tuple(event.kl for event in done),
            best_epochs=tuple(event.best_epoch for event in done),
            out_of_fold=out_of_fold,
        )

    def _epoch_scores(self, data: TrialData) -> EpochScores | None:
        """Of all folds; None where an earlier version ran an epoch and did not keep them."""
        ran = [event for event in self.events if isinstance(event, EpochEnded)]
        folds, patients, counts, parts = [], [], [], []
        for number in (event.fold for event in self.folds_done):
            rows = data.fold_rows(number)[1]
            ids, count = np.unique(data.labels.patient_id[rows[data.deciding(rows)]], return_counts=True)
            epochs = [event.epoch for event in ran if event.fold == number]
            kept = self.patient_kl.get(number)
            if kept is None or kept.shape != (len(epochs), len(ids)):
                return None
            part = np.full((ran[0].epochs, len(ids)), np.nan, np.float32)
            part[epochs] = kept
            folds.append(np.full(len(ids), number, np.int64))
            patients.append(ids)
            counts.append(count.astype(np.int64))
            parts.append(part)
        return EpochScores(
            fold=np.concatenate(folds),
            patient_id=np.concatenate(patients),
            rows=np.concatenate(counts),
            kl=np.concatenate(parts, axis=1),
        )


def is_of(state: dict[str, Any], config: str, store: str) -> bool:
    """Whether a checkpoint is of this configuration and this prepared data."""
    return (state.get("config"), state.get("store")) == (config, store)
