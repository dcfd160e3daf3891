"""The memory plan: before a trial starts, what it will hold where, and whether it fits.

What it cannot do without comes first: the network with gradients, optimizer state and moving average, the
working memory of a training or validation step, and a reserve. The rest goes to features of frozen layers,
then to signals or images, whichever a step of this trial reads more often.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch

from hms_tune.config.trial import TrialConfig
from hms_tune.data.schema import Kind
from hms_tune.data.store.gather import AHEAD
from hms_tune.errors import MemoryPlanError
from hms_tune.machine.byte_count import readable
from hms_tune.machine.device import computes_in_bfloat16
from hms_tune.signals.augmentation import Augmentation
from hms_tune.training.images.cache import BYTES, Form, harmless_forms
from hms_tune.training.memory.feature_bytes import feature_bytes
from hms_tune.training.memory.footprint import (
    EEG_SHAPE,
    SPECTROGRAM_SHAPE,
    Footprint,
    footprint,
    transform_bytes_per_sample,
)
from hms_tune.training.memory.holdings import Features, Images, Signals

RESERVED_SHARE = 0.05
"""Share of the memory that is left alone: fragments, and what other processes begin to need."""

WORKSPACES = 512 * 2**20
"""Bytes that a GPU's libraries take for themselves."""

CACHED_SHARE = {"cpu": 0.25, "cuda": 0.8}
"""Largest share of what is left that features, and then images, may take. The CPU's memory is other programs'
too, and holds the pages of the store."""

IMAGE_COPIES = 3
"""A batch of images as they are read, as they are varied, and in the layout that convolutions want."""

LARGEST_BATCH = 4096

_WINDOW_BYTES: dict[Kind, int] = {
    "eeg": 2 * EEG_SHAPE[0] * EEG_SHAPE[1],
    "spectrogram": 2 * SPECTROGRAM_SHAPE[0] * SPECTROGRAM_SHAPE[1],
}


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """What one trial holds on its device, bytes.

    Attributes
    ----------
    device : its name
    available : what this process may hold, with what it holds already
    network : weights, gradients, optimizer state and moving average
    step : the most that a training or validation step needs besides, at ``batch_size``
    reserve : left alone
    signals, images : what is resident, streamed or cached, and why; nothing is where the trial does not fit
    features : those of the frozen layers; None where nothing is frozen or images vary from epoch to epoch
    batch_size : the trial's
    largest_batch_size : the largest that fits; 0: none does
    """

    device: str
    available: int
    network: int
    step: int
    reserve: int
    signals: tuple[Signals, ...]
    images: Images
    features: Features | None
    batch_size: int
    largest_batch_size: int

    @property
    def required(self) -> int:
        """Bytes without which the trial cannot run."""
        return self.network + self.step + self.reserve

    @property
    def fits(self) -> bool:
        """Whether the trial can run."""
        return self.required <= self.available

    @property
    def resident(self) -> frozenset[Kind]:
        """The signals that live on the device."""
        return frozenset(signals.kind for signals in self.signals if signals.placement == "resident")

    @property
    def choices(self) -> tuple[object, ...]:
        """What was decided, without what free memory happens to be."""
        placed = tuple((signals.kind, signals.placement) for signals in self.signals)
        kept = self.features is not None and self.features.kept
        return (self.batch_size, self.network, self.step, placed, self.images.form, kept)

    def require(self) -> None:
        """Refuse a trial that does not fit.

        Raises
        ------
        MemoryPlanError
            With how much is needed, how much there is, and the largest batch size that fits.
        """
        if self.fits:
            return
        largest = self.largest_batch_size
        raise MemoryPlanError(
            f"batch size {self.batch_size} needs {readable(self.required)} and {readable(self.available)} "
            f"are there: {readable(self.network)} for the network, {readable(self.step)} for a step, "
            f"{readable(self.reserve)} in reserve",
            where=self.device,
            hint=f"The largest batch size that fits is {largest}"
            if largest
            else "No batch size fits; use a smaller backbone, image or test_batch_size, or a larger device",
            excess=self.required / max(1, self.available) - 1.0,
        )

    @property
    def _needs(self) -> str:
        there = f"of the {readable(self.available)} that there are"
        return f"memory on {self.device}: the trial needs {readable(self.required)} {there}"

    @property
    def _largest(self) -> str:
        return f"{self.largest_batch_size}" + (" or more" if self.largest_batch_size == LARGEST_BATCH else "")

    def in_a_line(self) -> str:
        """What is needed of what is there, at which batch size."""
        return f"{self._needs} at batch size {self.batch_size}; the largest that fits is {self._largest}"

    def __str__(self) -> str:
        """A few lines for people."""
        lines = [
            self._needs,
            f"  network  {readable(self.network)}: weights, gradients, optimizer state, moving average",
            f"  step     {readable(self.step)} at batch size {self.batch_size}; the largest that fits is "
            f"{self._largest}",
            f"  reserve  {readable(self.reserve)}",
        ]
        held = (*self.signals, *([self.features] if self.features else []), self.images)
        return "\n".join([*lines, *(f"  {each}" for each in held)])


def plan_memory(
    config: TrialConfig,
    device: torch.device,
    available: int,
    *,
    captured: bool,
    signal_bytes: Mapping[Kind, int],
    n_rows: int,
    kept: Form | None = None,
    ratio: float = 1.0,
) -> MemoryPlan:
    """Plan a trial's memory. Nothing is allocated.

    Parameters
    ----------
    config : the trial
    device : where it runs
    available : bytes this process may hold there, with what it holds already
    captured : whether steps may be captured as CUDA graphs, whose memory nothing else can use between them
    signal_bytes : size of each array of the store
    n_rows : rows of the labels
    kept : the form in which this trial's images are cached already. They stay as they are while they fit, so
        that free memory, which comes and goes, does not change what trials see
    ratio : how much more a step takes on this device than was counted
        (:mod:`~hms_tune.training.memory.measured_ratio`)
    """
    half = computes_in_bfloat16(device, config.training.precision)
    counted = footprint(config, half=half)
    reserve = round(RESERVED_SHARE * available) + (WORKSPACES if device.type == "cuda" else 0)
    step = _step_bytes(config, counted, ratio, captured)
    left = max(0, available - reserve - counted.network - step(config.training.batch_size))
    features = _features(config, device, left, n_rows, half)
    left -= 0 if features is None else features.held
    signals, images = _share(config, device, left, signal_bytes, n_rows, kept)
    return MemoryPlan(
        device=str(device),
        available=available,
        network=counted.network,
        step=step(config.training.batch_size),
        reserve=reserve,
        signals=signals,
        images=images,
        features=features,
        batch_size=config.training.batch_size,
        largest_batch_size=_largest(step, available - reserve - counted.network),
    )


def _step_bytes(
    config: TrialConfig, counted: Footprint, ratio: float, captured: bool
) -> Callable[[int], int]:
    """Working memory by batch size: images are made first, then learnt or predicted from."""
    image = 4 * math.prod(config.input.for_model.shape)
    varied = 2 if Augmentation(config.augmentation, config.input).touches_signals else 0
    streamed = AHEAD * sum(_WINDOW_BYTES[kind] for kind in _needed(config))
    eeg_copies = varied * 4 * EEG_SHAPE[0] * EEG_SHAPE[1] if config.input.needs_eeg else 0
    making = transform_bytes_per_sample(config.input) + eeg_copies + streamed + image
    learning = round(ratio * counted.step_per_sample) + IMAGE_COPIES * image
    predicting = counted.predict_per_sample + IMAGE_COPIES * image
    fixed = round(ratio * counted.step_fixed)
    validation = max(making, predicting) * config.training.test_batch_size

    def step(batch_size: int) -> int:
        learnt, beside = fixed + learning * batch_size, max(making * batch_size, validation)
        return learnt + beside if captured else max(learnt, beside)

    return step


def _largest(step: Callable[[int], int], room: int) -> int:
    """The largest batch size whose step fits, found by halving; 0: none."""
    fitting, beyond = 0, LARGEST_BATCH + 1
    while beyond - fitting > 1:
        middle = (fitting + beyond) // 2
        fitting, beyond = (middle, beyond) if step(middle) <= room else (fitting, middle)
    return fitting


def _needed(config: TrialConfig) -> tuple[Kind, ...]:
    needs: dict[Kind, bool] = {"eeg": config.input.needs_eeg, "spectrogram": config.input.needs_spectrogram}
    return tuple(kind for kind, needed in needs.items() if needed)


def _features(
    config: TrialConfig, device: torch.device, left: int, n_rows: int, half: bool
) -> Features | None:
    per_row = feature_bytes(config, half=half)
    if per_row is None:
        return None
    nbytes, most = n_rows * per_row, int(CACHED_SHARE[device.type] * left)
    if nbytes > most:
        return Features(nbytes, False, f"{readable(most)} are there for them")
    return Features(nbytes, True, "the frozen layers see each image once")


def _share(
    config: TrialConfig,
    device: torch.device,
    left: int,
    signal_bytes: Mapping[Kind, int],
    n_rows: int,
    kept: Form | None,
) -> tuple[tuple[Signals, ...], Images]:
    """Share what is left between signals and images."""
    if Augmentation(config.augmentation, config.input).touches_signals:
        signals = _place(
            config, device, left, signal_bytes, "each batch is varied before its images are made"
        )
        images = _cache(config, device, left - sum(each.held for each in signals), n_rows, kept)
        return signals, images
    images = _cache(config, device, left, n_rows, kept)
    why = "images are made from them once" if images.form else "images are made anew in each epoch"
    signals = _place(config, device, left - images.nbytes, signal_bytes, why)
    return signals, replace(images, most=min(images.most, left - sum(each.held for each in signals)))


def _place(
    config: TrialConfig, device: torch.device, left: int, signal_bytes: Mapping[Kind, int], why: str
) -> tuple[Signals, ...]:
    placed = []
    for kind in _needed(config):
        nbytes = signal_bytes[kind]
        if device.type != "cuda":
            placed.append(Signals(kind, nbytes, "mapped", "the CPU reads the store where it lies"))
        elif nbytes <= left:
            placed.append(Signals(kind, nbytes, "resident", why))
            left -= nbytes
        else:
            placed.append(Signals(kind, nbytes, "streamed", f"{readable(max(0, left))} are left for them"))
    return tuple(placed)


def _cache(config: TrialConfig, device: torch.device, left: int, n_rows: int, kept: Form | None) -> Images:
    most = int(CACHED_SHARE[device.type] * max(0, left))
    pixels = n_rows * config.input.differing_channels * math.prod(config.input.image)
    if kept is not None and (nbytes := pixels * BYTES[kept]) <= left:
        return Images(nbytes, kept, max(most, nbytes), "as an earlier trial left them")
    for form in harmless_forms(config.input):
        nbytes = pixels * BYTES[form]
        if nbytes <= most:
            exact = "bit for bit as they are made" if form == "float32" else "no wider form fits"
            return Images(nbytes, form, most, exact)
    return Images(0, None, most, f"{readable(most)} are there for them")
