"""What outlives a trial in the process that runs it: labels, folds, windows and images on the device."""

from __future__ import annotations

import gc
import json
import logging

import torch

from hms_tune.config.acceleration import AccelerationSettings
from hms_tune.config.trial import DataConfig, TrialConfig
from hms_tune.data.folds import assign_folds
from hms_tune.data.labels import Labels, make_labels
from hms_tune.data.store.store import Store
from hms_tune.data.store.windows import WindowSource, resident_bytes
from hms_tune.machine.device import make_current
from hms_tune.machine.json_cache import JsonCache
from hms_tune.machine.memory import MemoryReader, read_memory
from hms_tune.signals.augmentation import Augmentation
from hms_tune.signals.image import ImageTransform
from hms_tune.training.distributed.ranks import ALONE, Ranks
from hms_tune.training.images.cache import CachedImages, ImageCache
from hms_tune.training.images.images import RowImages, make_images
from hms_tune.training.memory.measured_ratio import step_ratio
from hms_tune.training.memory.plan import MemoryPlan, plan_memory
from hms_tune.training.step.learner import Learners
from hms_tune.training.trial_data import TrialData

_logger = logging.getLogger(__name__)


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
        self._share = share
        self._ratios = ratios or JsonCache()
        self._memory = memory
        self._rows_key: str | None = None
        self._labels: Labels | None = None
        self._source: WindowSource | None = None
        self._cache = ImageCache()
        self._lent = False
        self._said: set[tuple[object, ...]] = set()

    def plan(self, config: TrialConfig) -> MemoryPlan:
        """What a trial would hold on the device, and whether it fits. Nothing is allocated for it.

        On a GPU, the first trial of a backbone, image size and precision takes a small real step. Networks
        and features that earlier trials left give way where there is no room beside them.
        """
        plan = self._plan(config)
        if not plan.fits and self._lent:
            self._forget_learners()
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
        self._lent = True
        self._say(plan)
        room = 0 if plan.features is None else plan.features.held
        self.learners.features.begin_trial(config, self._key(config), room=room)
        labels, source = self._rows(config.data)
        transform = ImageTransform(config.input).to(self.device)
        images = RowImages(
            source,
            transform,
            Augmentation(config.augmentation, config.input),
            self._images(plan, config, source, transform),
            key=self._key(config),
            ranks=self.ranks,
        )
        shuffle_seed = int(config.hash, 16) % 2**31 if config.data.reshuffle else 0
        folds = assign_folds(labels, config.data, shuffle_seed=shuffle_seed)
        return TrialData(labels, folds, images, config.data.judged_on)

    def _plan(self, config: TrialConfig) -> MemoryPlan:
        labels, _ = self._rows(config.data)

        def planned(ratio: float) -> MemoryPlan:
            return plan_memory(
                config,
                self.device,
                available=self._available(),
                signal_bytes={"eeg": self.store.eeg.nbytes, "spectrogram": self.store.spectrogram.nbytes},
                n_rows=len(labels),
                kept=self._cache.form(self._key(config)),
                ratio=ratio,
                captured=self.device.type == "cuda" and self.learners.acceleration.wanted != "plain",
            )

        plan = planned(1.0)
        if not plan.fits:  # even the small step that would be measured might not
            return plan
        ratio = step_ratio(config, self.device, self._ratios)
        return plan if ratio == 1.0 else planned(ratio)

    def _available(self) -> int:
        """What is free, and what of our own the next trial uses again or replaces."""
        memory = self._memory(self.device)
        ours = self._cache.nbytes + self.learners.features.nbytes
        if self.device.type == "cuda":
            ours += resident_bytes(self.device)
            ours += torch.cuda.memory_reserved(self.device) - torch.cuda.memory_allocated(self.device)
        return min(memory.free + ours, int(self._share * memory.total))

    def _forget_learners(self) -> None:
        self._lent = False
        self.learners = Learners(self.device, self.learners.acceleration, self.ranks)
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _images(
        self, plan: MemoryPlan, config: TrialConfig, source: WindowSource, transform: ImageTransform
    ) -> CachedImages | None:
        """Do as the plan says: signals and images move in, and what they replace goes first."""
        key = self._key(config)
        self._cache.shrink(plan.images.most, spare=key)
        source.place(plan.resident)
        if plan.images.form is None:
            return None
        height, width = config.input.image
        return self._cache.get(
            key,
            lambda rows: make_images(source, transform, rows),
            n_rows=len(source),
            shape=(config.input.channels, height, width),
            form=plan.images.form,
            device=self.device,
            most=plan.images.most,
        )

    def _key(self, config: TrialConfig) -> str:
        """Names the images of the current rows under a trial's input settings."""
        return json.dumps([self._rows_key, config.input.model_dump(mode="json")], sort_keys=True)

    def _say(self, plan: MemoryPlan) -> None:
        """Log a plan that was not told yet; trials of several architectures take turns.

        The first on a GPU is told whole, with why each array lies where it lies; others differ little, and
        the CPU's memory is seldom what limits a trial.
        """
        if plan.choices not in self._said:
            whole = not self._said and self.device.type != "cpu"
            self._said.add(plan.choices)
            _logger.info("%s", plan if whole else plan.in_a_line())

    def _rows(self, config: DataConfig) -> tuple[Labels, WindowSource]:
        key = f"{config.rows}:{config.min_votes}"
        if self._labels is None or self._source is None or key != self._rows_key:
            self._labels = make_labels(self.store.train, rows=config.rows, min_votes=config.min_votes)
            self._source = WindowSource(self.store, self._labels, self.device)
            self._rows_key = key
        return self._labels, self._source
