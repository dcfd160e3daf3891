"""What outlives a trial in the process that runs it: rows and images on the device, and the learner."""

from __future__ import annotations

import json
from dataclasses import dataclass

import torch

from hms_tune.config.acceleration import AccelerationSettings
from hms_tune.config.trial import DataConfig, TrialConfig
from hms_tune.data.folds import assign_folds
from hms_tune.data.labels import Labels
from hms_tune.data.soft_labels import labelled_rows
from hms_tune.data.store.store import Store
from hms_tune.data.store.windows import WindowSource
from hms_tune.machine.device import make_current
from hms_tune.machine.json_cache import JsonCache
from hms_tune.machine.memory import MemoryReader, read_memory
from hms_tune.signals.augmentation import Augmentation
from hms_tune.signals.image import ImageTransform
from hms_tune.training.distributed.ranks import ALONE, Ranks
from hms_tune.training.images.cache import CachedImages, ImageCache
from hms_tune.training.images.images import RowImages, make_images
from hms_tune.training.memory.plan import MemoryPlan
from hms_tune.training.memory.planner import MemoryPlanner
from hms_tune.training.step.learner import Learners
from hms_tune.training.trial_data import TrialData


@dataclass(frozen=True, slots=True)
class LabelledRows:
    """Labels that trials share, and the signals of their windows.

    Parameters
    ----------
    name : tells these rows from those of other settings
    labels : a row for each window
    source : reads windows to the device
    """

    name: str
    labels: Labels
    source: WindowSource


class Workspace:
    """A store on a device, and what trials derived from it that the next trial can use again.

    Parameters
    ----------
    store : the prepared competition folder
    device : where trials compute
    acceleration : how steps may be run
    ranks : the processes that train a trial together
    share : of the device's memory that this process may plan with; below 1 where several slots share it
    ratios : what real steps took on this device over what was counted; kept in this process by default
    memory : asks the device for its free memory
    """

    def __init__(
        self,
        store: Store,
        device: torch.device,
        acceleration: AccelerationSettings | None = None,
        *,
        ranks: Ranks = ALONE,
        share: float = 1.0,
        ratios: JsonCache | None = None,
        memory: MemoryReader = read_memory,
    ) -> None:
        make_current(device)
        self.store = store
        self.device = device
        self.ranks = ranks
        self.learners = Learners(device, acceleration, ranks)
        self._planner = MemoryPlanner(
            store,
            device,
            share=share,
            ratios=ratios or JsonCache(),
            memory=memory,
            captured=device.type == "cuda" and self.learners.acceleration.wanted != "plain",
        )
        self._image_cache = ImageCache()
        self._rows: LabelledRows | None = None

    def plan(self, config: TrialConfig) -> MemoryPlan:
        """What a trial would hold on the device, and whether it fits. Nothing is allocated for it.

        On a GPU, the first trial of a backbone, image size and precision takes a small real step. Networks
        and features that earlier trials left give way where there is no room beside them.
        """
        plan = self._plan(config)
        if not plan.fits and self.learners.forget():
            plan = self._plan(config)
        return plan

    def trial_data(self, config: TrialConfig) -> TrialData:
        """Rows, folds and images for a trial configuration.

        Raises
        ------
        MemoryPlanError
            If the trial does not fit on the device; nothing was allocated.
        """
        plan = self.plan(config)
        plan.require()
        self._planner.log(plan)
        rows = self._labelled_rows(config.data)
        images_key = _images_key(rows, config)
        room = 0 if plan.features is None else plan.features.held
        self.learners.features.begin_trial(config, images_key, room=room)
        transform = ImageTransform(config.input).to(self.device)
        images = RowImages(
            rows.source,
            transform,
            Augmentation(config.augmentation, config.input),
            self._placed(plan, config, rows, transform),
            key=images_key,
            ranks=self.ranks,
        )
        folds = assign_folds(rows.labels, config.data, shuffle_seed=shuffle_seed(config))
        return TrialData(rows.labels, folds, images, config.data.judged_on)

    def _plan(self, config: TrialConfig) -> MemoryPlan:
        rows = self._labelled_rows(config.data)
        return self._planner.plan(
            config,
            n_rows=len(rows.labels),
            kept=self._image_cache.form(_images_key(rows, config)),
            reusable=self._image_cache.nbytes + self.learners.features.nbytes,
        )

    def _placed(
        self, plan: MemoryPlan, config: TrialConfig, rows: LabelledRows, transform: ImageTransform
    ) -> CachedImages | None:
        """Do as the plan says: signals and images move in, and what they replace goes first."""
        key = _images_key(rows, config)
        self._image_cache.shrink(plan.images.most, spare=key)
        rows.source.place(plan.resident)
        if plan.images.form is None:
            return None
        return self._image_cache.get(
            key,
            lambda batch: make_images(rows.source, transform, batch),
            n_rows=len(rows.labels),
            shape=(config.input.differing_channels, *config.input.image),
            form=plan.images.form,
            device=self.device,
            most=plan.images.most,
        )

    def _labelled_rows(self, config: DataConfig) -> LabelledRows:
        name = f"{config.rows}:{config.min_votes}"
        if config.soft_labels is not None:
            name += f":{config.soft_labels}:{config.holdout}:{config.fold_seed}"
        if self._rows is None or name != self._rows.name:
            labels = labelled_rows(self.store.train, self.store.root, config)
            self._rows = LabelledRows(name, labels, WindowSource(self.store, labels, self.device))
        return self._rows


def shuffle_seed(config: TrialConfig) -> int:
    """What a trial adds to the seed of its folds: 0, unless each has folds of its own."""
    return int(config.hash, 16) % 2**31 if config.data.reshuffle else 0


def _images_key(rows: LabelledRows, config: TrialConfig) -> str:
    """Names the images of rows under a trial's input settings."""
    return json.dumps([rows.name, config.input.model_dump(mode="json")], sort_keys=True)
