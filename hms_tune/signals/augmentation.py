"""What is varied in training batches: vectorised, with every draw from a generator that is passed in.

Draws are made on the CPU and then moved, so that a batch is varied alike on every device. A method that
is switched off, or that could not change the image, draws nothing.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hms_tune.config.augmentation import AugmentationConfig
from hms_tune.config.input import InputConfig, Raw
from hms_tune.signals.filters import band_pass_each
from hms_tune.signals.montage import ELECTRODE_PARTNERS, ELECTRODES, N_SCALP, REGION_PARTNERS, REGIONS, SFREQ
from hms_tune.signals.random_draws import (
    draw_beta,
    draw_marks,
    draw_noise,
    draw_spans,
    draw_uniform,
    place_spans,
)

BAND_PASS_CEILING_HZ = 40.0
"""Highest upper edge of a random band-pass; no recipe of the competition looks higher."""


class Augmentation:
    """The augmentations of one trial.

    Parameters
    ----------
    config : the ``augmentation`` section of a trial configuration
    views : its ``input`` section: what an image cannot show is not varied
    """

    def __init__(self, config: AugmentationConfig, views: InputConfig) -> None:
        self.config = config
        self._eeg = views.needs_eeg
        self._polarity = any(isinstance(view, Raw) for view in views.views.values())

    @property
    def touches_signals(self) -> bool:
        """Whether images must be made anew for each epoch, because their signals change."""
        config = self.config
        of_both = config.left_right_swap or config.time_reversal or config.amplitude_db
        of_eeg = (
            config.window_shift_seconds
            or config.channel_drop
            or config.band_pass
            or config.noise_uv
            or config.time_warp
        )
        return bool(of_both or (self._eeg and of_eeg) or (self._polarity and config.sign_flip))

    @property
    def changes_anything(self) -> bool:
        """Whether an image to learn from can differ from the clean one at all."""
        config = self.config
        masks = config.time_mask or config.frequency_mask
        return bool(self.touches_signals or masks or config.mixup_alpha or config.cutmix_alpha)

    def shifts(self, n: int, generator: torch.Generator) -> Tensor | None:
        """Draw by how much each EEG window moves within its recording.

        Returns
        -------
        int64 tensor, shape (n,), samples, uniform over ± the configured shift; None when that is 0
        """
        largest = round(self.config.window_shift_seconds * SFREQ)
        if not largest or not self._eeg:
            return None
        return torch.randint(-largest, largest + 1, (n,), generator=generator)

    def signals(
        self, eeg: Tensor | None, spectrogram: Tensor | None, generator: torch.Generator
    ) -> tuple[Tensor | None, Tensor | None]:
        """Vary EEG and spectrogram together, then the EEG alone.

        A swap exchanges the electrodes of the two hemispheres and the regions of the Kaggle spectrogram
        together; no label depends on the side. Both run backwards together, and are louder or softer by the
        same.

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
        if given is not None and self.config.left_right_swap:
            swapped = draw_marks(len(given), self.config.left_right_swap, generator)
            if eeg is not None:
                eeg = swap_hemispheres(eeg, swapped)
            if spectrogram is not None:
                spectrogram = swap_regions(spectrogram, swapped)
        if given is not None and self.config.time_reversal:
            reversed_ = draw_marks(len(given), self.config.time_reversal, generator)
            eeg, spectrogram = (reverse(each, reversed_) for each in (eeg, spectrogram))
        if given is not None and (most_db := self.config.amplitude_db):
            db = draw_uniform(len(given), -most_db, most_db, generator)[:, None, None]
            if eeg is not None:
                eeg = eeg * (10.0 ** (db / 20.0)).to(eeg.device)
            if spectrogram is not None:  # the logarithm of power
                spectrogram = spectrogram + (db * math.log(10.0) / 10.0).to(spectrogram.device)
        if eeg is not None:
            eeg = self._vary_eeg(eeg, generator)
        return eeg, spectrogram

    def _vary_eeg(self, eeg: Tensor, generator: torch.Generator) -> Tensor:
        """Warp, filter, add noise, then silence and flip: noise covers the band, silence stays silent."""
        config, n = self.config, len(eeg)
        if config.time_warp:
            eeg = warp(eeg, 1.0 + draw_uniform(n, -config.time_warp, config.time_warp, generator))
        if config.band_pass:
            eeg = self._band_pass(eeg, generator)
        if config.noise_uv:
            eeg = add_noise(eeg, config.noise_uv, generator)
        if config.channel_drop:
            keep = self._draw_kept_electrodes(n, generator)
            eeg = eeg * keep.to(eeg.device, eeg.dtype).unsqueeze(-1)
        if config.sign_flip and self._polarity:
            sign = 1.0 - 2.0 * draw_marks(n, config.sign_flip, generator).to(eeg.dtype)
            eeg = eeg * sign.to(eeg.device)[:, None, None]
        return eeg

    def _band_pass(self, eeg: Tensor, generator: torch.Generator) -> Tensor:
        """Filter some samples, each between edges of its own; the others stay bit for bit."""
        config, n = self.config, len(eeg)
        marked = draw_marks(n, config.band_pass, generator)
        low = draw_uniform(n, 0.0, config.band_pass_low_hz, generator)
        high = draw_uniform(n, config.band_pass_high_hz, BAND_PASS_CEILING_HZ, generator)
        rows = marked.nonzero().squeeze(-1).to(eeg.device)
        if not len(rows):
            return eeg
        scalp = eeg[rows, :N_SCALP]
        filtered = band_pass_each(scalp, low[marked].to(eeg.device), high[marked].to(eeg.device))
        varied = eeg.clone()
        varied[rows, :N_SCALP] = filtered
        return varied

    def _draw_kept_electrodes(self, n: int, generator: torch.Generator) -> Tensor:
        """Which channels stay: bool tensor, shape (n, 20). The EKG always does."""
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
        uniform between 0 and the configured share.

        Mixup draws λ ~ Beta(α, α) for every sample apart and mixes its image and target with those of a
        random partner (Zhang et al., ICLR 2018). Cutmix pastes a rectangle of the partner's image instead,
        with the share 1 - λ of the area, and mixes the targets by the area that was really pasted
        (Yun et al., ICCV 2019). Where both are on, each sample gets one of them, with equal chances.

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
        if config.mixup_alpha or config.cutmix_alpha:
            return self._mix(images, targets, generator)
        return images, targets

    def _mix(self, images: Tensor, targets: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        config = self.config
        n, _, height, width = images.shape
        partner = torch.randperm(n, generator=generator).to(images.device)
        cut = torch.full((n,), not config.mixup_alpha)
        if config.mixup_alpha and config.cutmix_alpha:
            cut = draw_marks(n, 0.5, generator)
        kept = torch.ones(n)
        others, other_targets = images[partner], targets[partner]
        if config.mixup_alpha:
            kept = torch.where(cut, kept, draw_beta(n, config.mixup_alpha, generator))
            images = torch.lerp(others, images, kept.to(images.device)[:, None, None, None])
        if config.cutmix_alpha:
            pasted = draw_rectangles(n, height, width, config.cutmix_alpha, generator) & cut[:, None, None]
            kept = torch.where(cut, 1.0 - pasted.float().mean(dim=(1, 2)), kept)
            images = torch.where(pasted.to(images.device).unsqueeze(1), others, images)
        targets = torch.lerp(other_targets, targets, kept.to(targets.device)[:, None])
        return images, targets


def draw_rectangles(n: int, height: int, width: int, alpha: float, generator: torch.Generator) -> Tensor:
    """Rectangles of the image's proportions that cover the share 1 - λ of it, λ ~ Beta(alpha, alpha).

    Returns
    -------
    bool tensor, shape (n, height, width); every rectangle lies wholly inside the image
    """
    side = (1.0 - draw_beta(n, alpha, generator)).sqrt()
    rows = place_spans((side * height).round().long(), height, generator)
    columns = place_spans((side * width).round().long(), width, generator)
    return rows[:, :, None] & columns[:, None, :]


def add_noise(eeg: Tensor, noise_uv: float, generator: torch.Generator) -> Tensor:
    """White noise of a standard deviation in µV, apart for every electrode; the EKG is left alone."""
    n, _, n_times = eeg.shape
    pool, start = draw_noise(n, N_SCALP, n_times, generator)
    stretches = pool.to(eeg.device).unfold(0, n_times, 1)
    noisy = eeg.clone()
    noisy[:, :N_SCALP] += noise_uv * stretches[start.to(eeg.device)]
    return noisy


def reverse(signal: Tensor | None, reversed_: Tensor) -> Tensor | None:
    """Run the samples that ``reversed_`` (bool, shape (batch,)) marks backwards along the last axis."""
    if signal is None:
        return None
    return torch.where(reversed_.to(signal.device)[:, None, None], signal.flip(-1), signal)


def warp(eeg: Tensor, rate: Tensor) -> Tensor:
    """Run each sample ``rate`` times as fast about its middle; what lies beyond an end repeats the end.

    Parameters
    ----------
    eeg : float32 tensor, shape (batch, channels, n_times)
    rate : float32 tensor, shape (batch,)
    """
    last = eeg.shape[-1] - 1
    offset = torch.arange(last + 1, device=eeg.device) - last / 2.0
    place = (last / 2.0 + offset * rate.to(eeg.device)[:, None]).clamp(0.0, last)
    before = place.floor()
    share = (place - before).unsqueeze(1)
    index = before.long().unsqueeze(1).expand(-1, eeg.shape[1], -1)
    return torch.lerp(eeg.gather(-1, index), eeg.gather(-1, (index + 1).clamp(max=last)), share)


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
