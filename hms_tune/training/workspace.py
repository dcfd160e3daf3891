"""What outlives a trial in the process that runs it: labels, folds, windows and images on the device."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from hms_tune.config.acceleration import AccelerationSettings
from hms_tune.config.trial import DataConfig, TrialConfig
from hms_tune.data.folds import HELD_OUT, assign_folds
from hms_tune.data.labels import HIGH_VOTES, Labels, make_labels
from hms_tune.data.store import Store
from hms_tune.data.windows import WindowSource
from hms_tune.errors import DataError
from hms_tune.signals.augmentation import Augmentation
from hms_tune.signals.image import ImageTransform
from hms_tune.training.images import ImageCache, RowImages
from hms_tune.training.learner import Learners
from hms_tune.training.metrics import kl_divergence
from hms_tune.training.ranks import ALONE, Ranks


@dataclass(frozen=True, slots=True)
class TrialData:
    """Everything one trial learns from.

    ``folds`` is int64 ``(n_repeats, n_rows)``: each row's fold in each repeat, or ``HELD_OUT``. Folds are
    counted through the repeats: fold 7 of 5 is the third one of the second repeat.
    """

    labels: Labels
    folds: NDArray[np.int64]
    images: RowImages
    judged_on: Literal["all_rows", "high_votes"]

    @property
    def held_out_rows(self) -> NDArray[np.int64]:
        """Rows of the patients that the whole search never sees."""
        return np.flatnonzero(self.folds[0] == HELD_OUT)

    def fold_rows(self, fold: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Training and validation rows of a fold."""
        searched = self.folds[0] != HELD_OUT
        folds_per_repeat = int(self.folds[0].max()) + 1
        repeat, number = divmod(fold, folds_per_repeat)
        validation = self.folds[repeat] == number
        return np.flatnonzero(~validation & searched), np.flatnonzero(validation)

    def judge(self, rows: NDArray[np.int64], probabilities: NDArray[np.floating]) -> Judged:
        """Score predictions of some rows.

        Raises
        ------
        DataError
            If high-vote rows decide and there are none.
        """
        targets = self.labels.targets[rows]
        high = self.labels.total_votes[rows] >= HIGH_VOTES
        all_rows = kl_divergence(targets, probabilities)
        high_vote = kl_divergence(targets[high], probabilities[high])
        if self.judged_on == "all_rows":
            return Judged(all_rows, all_rows, high_vote)
        if not high.any():
            raise DataError(
                f"no validation row has {HIGH_VOTES} votes or more",
                where="data.judged_on: high_votes",
                mend="Judge on all_rows, lower data.folds, or add patients",
            )
        return Judged(high_vote, all_rows, high_vote)


@dataclass(frozen=True, slots=True)
class Judged:
    """KL of predictions: ``kl`` is the one that decides, ``high_vote`` is NaN without such rows."""

    kl: float
    all_rows: float
    high_vote: float


class Workspace:
    """A store on a device, and what trials derived from it that the next trial can use again."""

    def __init__(
        self,
        store: Store,
        device: torch.device,
        acceleration: AccelerationSettings | None = None,
        *,
        ranks: Ranks = ALONE,
    ) -> None:
        self.store = store
        self.device = device
        self.ranks = ranks
        self.learners = Learners(device, acceleration, ranks)
        self._rows_key: str | None = None
        self._labels: Labels | None = None
        self._source: WindowSource | None = None
        self._cache = ImageCache()

    def trial_data(self, config: TrialConfig) -> TrialData:
        """Rows, folds and images for a trial configuration."""
        labels, source = self._rows(config.data)
        transform = ImageTransform(config.input).to(self.device)
        key = json.dumps([self._rows_key, config.input.model_dump(mode="json")], sort_keys=True)
        images = RowImages(
            source,
            transform,
            Augmentation(config.augmentation, config.input),
            self._cache.get(key, source, transform, len(labels)),
            key=key,
            ranks=self.ranks,
        )
        shuffle_seed = int(config.hash, 16) % 2**31 if config.data.reshuffle else 0
        folds = assign_folds(labels, config.data, shuffle_seed=shuffle_seed)
        return TrialData(labels, folds, images, config.data.judged_on)

    def _rows(self, config: DataConfig) -> tuple[Labels, WindowSource]:
        key = f"{config.rows}:{config.min_votes}"
        if self._labels is None or self._source is None or key != self._rows_key:
            self._labels = make_labels(self.store.train, rows=config.rows, min_votes=config.min_votes)
            self._source = WindowSource(self.store, self._labels, self.device)
            self._rows_key = key
        return self._labels, self._source
