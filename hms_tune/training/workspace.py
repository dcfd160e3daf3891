"""What outlives a trial in the process that runs it: labels, folds, windows and images on the device."""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hms_tune.config.trial import DataConfig, TrialConfig
from hms_tune.data.folds import HELD_OUT, assign_folds
from hms_tune.data.labels import Labels, make_labels
from hms_tune.data.store import Store
from hms_tune.data.windows import WindowSource
from hms_tune.signals.augmentation import Augmentation
from hms_tune.signals.image import ImageTransform
from hms_tune.training.images import ImageCache, RowImages


@dataclass(frozen=True, slots=True)
class TrialData:
    """Everything one trial learns from.

    ``folds`` holds each row's fold, or ``HELD_OUT``; ``targets`` is float32 ``(n_rows, 6)`` on the device.
    """

    labels: Labels
    folds: NDArray[np.int64]
    targets: Tensor
    images: RowImages

    @property
    def held_out_rows(self) -> NDArray[np.int64]:
        """Rows of the patients that the whole search never sees."""
        return np.flatnonzero(self.folds == HELD_OUT)

    def fold_rows(self, fold: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Training and validation rows of a fold."""
        validation = self.folds == fold
        return np.flatnonzero(~validation & (self.folds != HELD_OUT)), np.flatnonzero(validation)


class Workspace:
    """A store on a device, and what trials derived from it that the next trial can use again."""

    def __init__(self, store: Store, device: torch.device) -> None:
        self.store = store
        self.device = device
        self._rows_key: str | None = None
        self._labels: Labels | None = None
        self._source: WindowSource | None = None
        self._cache = ImageCache()

    def trial_data(self, config: TrialConfig) -> TrialData:
        """Rows, folds, targets and images for a trial configuration."""
        labels, source = self._rows(config.data)
        transform = ImageTransform(config.input).to(self.device)
        key = json.dumps([self._rows_key, config.input.model_dump(mode="json")], sort_keys=True)
        images = RowImages(
            source,
            transform,
            Augmentation(config.augmentation),
            self._cache.get(key, source, transform, len(labels)),
        )
        targets = torch.from_numpy(labels.targets).to(self.device)
        return TrialData(labels, assign_folds(labels, config.data), targets, images)

    def _rows(self, config: DataConfig) -> tuple[Labels, WindowSource]:
        key = f"{config.rows}:{config.min_votes}"
        if self._labels is None or self._source is None or key != self._rows_key:
            self._labels = make_labels(self.store.train, rows=config.rows, min_votes=config.min_votes)
            self._source = WindowSource(self.store, self._labels, self.device)
            self._rows_key = key
        return self._labels, self._source
