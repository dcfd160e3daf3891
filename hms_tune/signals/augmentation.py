"""What is varied in training batches: vectorised, with every draw from a generator that is passed in.

Draws are made on the CPU and then moved, so that a batch is varied alike on every device. A method that
is switched off draws nothing.
"""

from __future__ import annotations

import torch
from scipy import special
from torch import Tensor

from hms_tune.config.trial import AugmentationConfig
from hms_tune.signals.montage import ELECTRODE_PARTNERS, ELECTRODES, N_SCALP, REGION_PARTNERS, REGIONS, SFREQ


class Augmentation:
    """The augmentations of one trial.

    Parameters
    ----------
    config : the ``augmentation`` section of a trial configuration
    """

    def __init__(self, config: AugmentationConfig) -> None:
        self.config = config

    @property
    def touches_signals(self) -> bool:
        """Whether images must be made anew for each epoch, because their signals change."""
        config = self.config
        return bool(config.left_right_swap or config.window_shift_seconds or config.channel_drop)

    def shifts(self, n: int, generator: torch.Generator, sfreq: float = SFREQ) -> Tensor | None:
        """Draw by how much each EEG window moves within its recording.

        Returns
        -------
        int64 tensor, shape (n,), samples, uniform over ± the configured shift; None when that is 0
        """
        largest = round(self.config.window_shift_seconds * sfreq)
        if not largest:
            return None
        return torch.randint(-largest, largest + 1, (n,), generator=generator)

    def signals(
        self, eeg: Tensor | None, spectrogram: Tensor | None, generator: torch.Generator
    ) -> tuple[Tensor | None, Tensor | None]:
        """Swap hemispheres and silence electrodes.

        A swap exchanges the electrodes of the two hemispheres and the regions of the Kaggle spectrogram
        together; no label depends on the side. A silenced electrode reads 0 µV throughout; the EKG is
        left alone.

        Parameters
        ----------
        eeg : float32 tensor, shape (batch, 20, n_times), µV, or None
        spectrogram : float32 tensor, shape (batch, 400, n_frames), or None
        generator : CPU generator

        Returns
        -------
        eeg, spectrogram : new tensors of the same shapes, or those passed in where nothing changes
        """
        given = eeg if eeg is not None else spectrogram
        if given is None:
            return None, None
        if self.config.left_right_swap:
            swapped = torch.rand(len(given), generator=generator) < self.config.left_right_swap
            if eeg is not None:
                eeg = swap_hemispheres(eeg, swapped)
            if spectrogram is not None:
                spectrogram = swap_regions(spectrogram, swapped)
        if self.config.channel_drop:
            keep = self._draw_kept_electrodes(len(given), generator)
            if eeg is not None:
                eeg = eeg * keep.to(eeg.device, eeg.dtype).unsqueeze(-1)
        return eeg, spectrogram

    def _draw_kept_electrodes(self, n: int, generator: torch.Generator) -> Tensor:
        """Which channels stay: bool tensor, shape (n, 20)."""
        dropped = torch.rand(n, 1, generator=generator) < self.config.channel_drop
        count = torch.randint(1, self.config.channel_drop_max + 1, (n, 1), generator=generator)
        rank = torch.rand(n, N_SCALP, generator=generator).argsort(dim=1).argsort(dim=1)
        keep = torch.ones(n, len(ELECTRODES), dtype=torch.bool)
        keep[:, :N_SCALP] = ~(dropped & (rank < count))
        return keep

    def images(self, images: Tensor, targets: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Mask times and frequencies, then mix pairs of images.

        A mask hides one span of columns (time) or rows (frequency; panels lie one above the other, so a
        tall mask reaches into the next panel) with 0, the fixed mean of the scaled images. Its length is
        uniform between 0 and the configured share. Mixup draws λ ~ Beta(α, α) for every sample apart
        (Zhang et al., ICLR 2018) and mixes its image and target with those of a random partner.

        Parameters
        ----------
        images : float32 tensor, shape (batch, channels, height, width)
        targets : float32 tensor, shape (batch, n_classes), rows sum to 1
        generator : CPU generator

        Returns
        -------
        images, targets : new tensors of the same shapes, or those passed in where nothing changes
        """
        config = self.config
        n, _, height, width = images.shape
        if config.time_mask:
            keep = draw_spans(n, width, config.time_mask, generator).logical_not()
            images = images * keep.to(images.device, images.dtype)[:, None, None, :]
        if config.frequency_mask:
            keep = draw_spans(n, height, config.frequency_mask, generator).logical_not()
            images = images * keep.to(images.device, images.dtype)[:, None, :, None]
        if config.mixup_alpha:
            share = draw_beta(n, config.mixup_alpha, generator).to(images.device)
            partner = torch.randperm(n, generator=generator).to(images.device)
            images = torch.lerp(images[partner], images, share[:, None, None, None])
            targets = torch.lerp(targets[partner], targets, share[:, None])
        return images, targets


def swap_hemispheres(eeg: Tensor, swapped: Tensor) -> Tensor:
    """Exchange left and right electrodes in the samples that ``swapped`` (bool, shape (batch,)) marks."""
    return _permuted(eeg, swapped, ELECTRODE_PARTNERS)


def swap_regions(spectrogram: Tensor, swapped: Tensor) -> Tensor:
    """Exchange left and right regions of Kaggle spectrograms in the samples that ``swapped`` marks."""
    regions = spectrogram.view(len(spectrogram), len(REGIONS), -1, spectrogram.shape[-1])
    return _permuted(regions, swapped, REGION_PARTNERS).flatten(1, 2)


def _permuted(tensor: Tensor, swapped: Tensor, partners: tuple[int, ...]) -> Tensor:
    """Reorder the second axis of the marked samples, in one copy."""
    order = torch.where(swapped[:, None], torch.tensor(partners), torch.arange(len(partners)))
    sample = torch.arange(len(tensor), device=tensor.device)[:, None]
    return tensor[sample, order.to(tensor.device)]


def draw_spans(n: int, length: int, largest: float, generator: torch.Generator) -> Tensor:
    """One contiguous span in each row.

    Parameters
    ----------
    n : rows
    length : positions in a row
    largest : longest span as a share of the length; lengths are uniform from 0 to it
    generator : CPU generator

    Returns
    -------
    bool tensor, shape (n, length), True inside the span
    """
    most = round(largest * length)
    spans = torch.randint(0, most + 1, (n, 1), generator=generator)
    start = (torch.rand(n, 1, generator=generator) * (length - spans + 1)).long()
    position = torch.arange(length)
    return (position >= start) & (position < start + spans)


def draw_beta(n: int, alpha: float, generator: torch.Generator) -> Tensor:
    """Draw from Beta(alpha, alpha) by inverting its distribution function: float32 tensor, shape (n,)."""
    uniform = torch.rand(n, generator=generator, dtype=torch.float64)
    return torch.from_numpy(special.betaincinv(alpha, alpha, uniform.numpy())).to(torch.float32)
