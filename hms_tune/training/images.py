"""Rows of labels to images on the device."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from hms_tune.data.windows import WindowSource
from hms_tune.signals.augmentation import Augmentation
from hms_tune.signals.image import ImageTransform
from hms_tune.training.ranks import ALONE, Ranks

_CACHED_SHARE = 0.25
"""Largest share of the device's free memory that a cache of images may take."""

_CHUNK = 64


class ImageCache:
    """The un-augmented image of every row, made once for each input configuration.

    A slot keeps one cache over all its trials: as long as the input settings stay the same, the next trial
    finds its images ready. Only the newest setting is kept.
    """

    def __init__(self) -> None:
        self._key: str | None = None
        self._images: Tensor | None = None

    def get(self, key: str, source: WindowSource, transform: ImageTransform, n_rows: int) -> Tensor | None:
        """Images of all rows, float32 ``(n_rows, channels, height, width)``; None where they do not fit."""
        if key == self._key:
            return self._images
        self._key, self._images = None, None
        first = make_images(source, transform, torch.arange(min(1, n_rows)))
        needed = first.element_size() * first[0].numel() * n_rows if n_rows else 0
        if needed > _CACHED_SHARE * free_memory(source.device):
            return None
        images = torch.empty((n_rows, *first.shape[1:]), dtype=first.dtype, device=source.device)
        for rows in torch.arange(n_rows).split(_CHUNK):
            images[rows[0] : rows[-1] + 1] = make_images(source, transform, rows)
        self._key, self._images = key, images
        return images


class RowImages:
    """Images of the rows of a trial, with or without augmentation.

    ``key`` tells its clean images from any others.
    """

    def __init__(
        self,
        source: WindowSource,
        transform: ImageTransform,
        augmentation: Augmentation,
        cached: Tensor | None = None,
        *,
        key: str = "",
        ranks: Ranks = ALONE,
    ) -> None:
        self.key = key
        self._source = source
        self._transform = transform
        self._augmentation = augmentation
        self._cached = cached
        self._ranks = ranks

    @property
    def vary(self) -> bool:
        """Whether augmentation makes an image of a row differ from epoch to epoch."""
        return self._augmentation.changes_anything

    def clean(self, rows: Tensor) -> Tensor:
        """Images as they are predicted from: float32 ``(n_rows, channels, height, width)``."""
        if self._cached is not None:
            return self._cached[rows.to(self._cached.device)]
        return make_images(self._source, self._transform, rows)

    def augmented(self, rows: Tensor, targets: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Images to learn from, with their targets, which mixup changes too."""
        if self._augmentation.touches_signals:
            images = self._from_varied_signals(rows, generator)
        else:
            images = self.clean(rows)
        return self._augmentation.images(images, targets, generator)

    def _from_varied_signals(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        transform = self._transform
        shift = self._augmentation.shifts(len(rows), generator)
        eeg = self._source.eeg(rows, shift) if transform.needs_eeg else None
        spectrogram = self._source.spectrogram(rows) if transform.needs_spectrogram else None
        eeg, spectrogram = self._augmentation.signals(eeg, spectrogram, generator)
        mine = self._ranks.share(len(rows)).rows
        images: Tensor = transform(*(None if each is None else each[mine] for each in (eeg, spectrogram)))
        return self._ranks.gather_rows(images, len(rows))


@torch.no_grad()
def make_images(source: WindowSource, transform: ImageTransform, rows: Tensor) -> Tensor:
    """Images of rows, straight from the store: float32 ``(n_rows, channels, height, width)``."""
    eeg = source.eeg(rows) if transform.needs_eeg else None
    spectrogram = source.spectrogram(rows) if transform.needs_spectrogram else None
    images: Tensor = transform(eeg, spectrogram)
    return images


def free_memory(device: torch.device) -> int:
    """Bytes that can be allocated on a device now."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        for line in _lines(meminfo):
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return 2 * 1024**3


def _lines(path: Path) -> Iterator[str]:
    with path.open() as file:
        yield from file
