"""Rows of labels to images on the device."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from hms_tune.data.schema import Kind
from hms_tune.data.store.windows import Wanted, WindowSource
from hms_tune.signals.augmentation import Augmentation
from hms_tune.signals.image import ImageTransform
from hms_tune.training.distributed.ranks import ALONE, Ranks
from hms_tune.training.images.cache import CachedImages


class RowImages:
    """Images of the rows of a trial, with or without augmentation.

    Attributes
    ----------
    key : tells clean images from any others
    cached : the images of all rows, where there was room for them
    """

    def __init__(
        self,
        source: WindowSource,
        transform: ImageTransform,
        augmentation: Augmentation,
        cached: CachedImages | None = None,
        *,
        key: str = "",
        ranks: Ranks = ALONE,
    ) -> None:
        self.key = key
        self.cached = cached
        self._source = source
        self._transform = transform
        self._augmentation = augmentation
        self._ranks = ranks

    def __len__(self) -> int:
        """How many rows there are."""
        return len(self._source)

    def clean(self, rows: Tensor) -> Tensor:
        """Images as they are predicted from: float32 ``(n_rows, channels, height, width)``."""
        if self.cached is not None:
            return self.cached.take(rows)
        return make_images(self._source, self._transform, rows)

    @torch.no_grad()
    def changed(
        self, rows: Tensor, change: Callable[[Tensor | None, Tensor | None], Sequence[Tensor | None]]
    ) -> Tensor:
        """Images of rows whose EEG and spectrogram (None where not needed) are changed first."""
        transform = self._transform
        eeg = self._source.eeg(rows) if transform.needs_eeg else None
        spectrogram = self._source.spectrogram(rows) if transform.needs_spectrogram else None
        images: Tensor = transform(*change(eeg, spectrogram))
        return images

    @property
    def vary(self) -> bool:
        """Whether augmentation makes an image of a row differ from epoch to epoch."""
        return self._augmentation.changes_anything

    @property
    def device(self) -> torch.device:
        """Where images come to lie."""
        return self._source.device

    def augmented(self, rows: Tensor, targets: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Images to learn from, with their targets, which mixup changes too."""
        if self._augmentation.touches_signals:
            images = self._from_varied_signals(rows, generator)
        else:
            images = self.clean(rows)
        return self._augmentation.images(images, targets, generator)

    def announce(
        self, batches: Sequence[Tensor], generator_of: Callable[[int], torch.Generator] | None = None
    ) -> None:
        """Say which batches come next, in order, so that signals can be read ahead of them.

        Only where signals are streamed does it do anything, and what is given never depends on it.

        Parameters
        ----------
        batches : rows of each batch, on the CPU
        generator_of : the generator, as new, that :meth:`augmented` will be given for a batch, by its place
            in the sequence; None: the batches will be asked of :meth:`clean`
        """
        learning = generator_of is not None and self._augmentation.touches_signals
        if self.cached is not None and not learning:
            return
        make = generator_of if learning else None

        def wanted() -> Iterable[Wanted]:
            for place, rows in enumerate(batches):
                # The shifts are what a batch draws first.
                shift = None if make is None else self._augmentation.shifts(len(rows), make(place))
                yield rows, shift

        self._source.announce(wanted, needed_kinds(self._transform))

    def _from_varied_signals(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        transform = self._transform
        shift = self._augmentation.shifts(len(rows), generator)
        eeg = self._source.eeg(rows, shift) if transform.needs_eeg else None
        spectrogram = self._source.spectrogram(rows) if transform.needs_spectrogram else None
        eeg, spectrogram = self._augmentation.signals(eeg, spectrogram, generator)
        mine = self._ranks.share(len(rows)).rows
        images: Tensor = transform(*(None if each is None else each[mine] for each in (eeg, spectrogram)))
        return self._ranks.gather_rows(images, len(rows))


def needed_kinds(transform: ImageTransform) -> tuple[Kind, ...]:
    """The signals that images are made from."""
    kinds: list[Kind] = []
    if transform.needs_eeg:
        kinds.append("eeg")
    if transform.needs_spectrogram:
        kinds.append("spectrogram")
    return tuple(kinds)


@torch.no_grad()
def make_images(source: WindowSource, transform: ImageTransform, rows: Tensor) -> Tensor:
    """Images of rows, straight from the store: float32 ``(n_rows, channels, height, width)``."""
    eeg = source.eeg(rows) if transform.needs_eeg else None
    spectrogram = source.spectrogram(rows) if transform.needs_spectrogram else None
    images: Tensor = transform(eeg, spectrogram)
    return images
