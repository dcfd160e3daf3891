"""Recipes: a window of bipolar EEG to panels, each recipe in its natural unit.

Every panel (a region, or a bipolar pair) shows time from left to right. Spectral recipes show frequency from
top (lowest) to bottom (highest), in dB; raw traces show lines of time from top to bottom, in µV.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from hms_tune.config.image_layout import panel_heights, shown_lines
from hms_tune.config.input import STFT, Mel, Multitaper, Raw, Spectral, Wavelet
from hms_tune.signals.montage import PAIRS_PER_REGION, REGIONS, SFREQ
from hms_tune.signals.spectrogram import (
    PowerSpectrogram,
    decibel,
    dpss_tapers,
    frequency_bins,
    hann_taper,
    hop_length,
    mel_filterbank,
)
from hms_tune.signals.wavelet import MorletPower, wavelet_frequencies


class SpectralPanels(nn.Module):
    """Power of each pair, averaged over the chains where they are shown, in dB.

    Parameters
    ----------
    view : the recipe and its settings
    width : columns that the panels will be shown in
    """

    bands: Tensor | None

    def __init__(self, view: Spectral, *, width: int) -> None:
        super().__init__()
        self.averaged = view.montage == "chains"
        n_times = round(view.window_seconds * SFREQ)
        self.power: nn.Module
        bands = None
        match view:
            case STFT() | Mel():
                spectrogram = short_time_power(view, n_times, width)
                if isinstance(view, Mel):
                    bands = mel_filterbank(
                        spectrogram.frequencies, view.n_mels, low_hz=view.low_hz, high_hz=view.high_hz
                    ).T.contiguous()
                self.power = spectrogram
            case Multitaper():
                self.power = multitaper_power(view, n_times)
            case Wavelet():
                frequencies = wavelet_frequencies(
                    view.frequencies,
                    low_hz=view.low_hz,
                    high_hz=view.high_hz,
                    logarithmic=view.spacing == "log",
                )
                self.power = MorletPower(n_times, frequencies=frequencies, cycles=view.cycles, columns=width)
        self.register_buffer("bands", bands, persistent=False)

    def forward(self, pairs: Tensor) -> Tensor:
        """Panels of a batch.

        Parameters
        ----------
        pairs : float32 tensor, shape (batch, n_pairs, n_times), µV; in the order of
            :data:`hms_tune.signals.montage.PAIRS`, without the midline's where the montage leaves it out

        Returns
        -------
        float32 tensor, shape (batch, n_panels, n_frequencies, n_frames), dB re 1 µV²/Hz
        """
        power: Tensor = self.power(pairs)
        if self.averaged:
            power = power.unflatten(1, (len(REGIONS), PAIRS_PER_REGION)).mean(dim=2)
        if self.bands is not None:
            power = power @ self.bands
        return decibel(power).transpose(-1, -2)


class RawPanels(nn.Module):
    """Traces as images: each is resampled to all pixels of its lines, and the lines are stacked."""

    def __init__(self, view: Raw, *, height: int, width: int) -> None:
        super().__init__()
        self.width = width
        self.lines = view.lines_of(height)

    def forward(self, pairs: Tensor) -> Tensor:
        """From (batch, n_pairs, n_times) in µV to (batch, n_pairs, lines, width) in µV."""
        pixels: Tensor = functional.interpolate(
            pairs.unsqueeze(-2),
            size=(1, self.lines * self.width),
            mode="bilinear",
            align_corners=False,
            antialias=True,
        )
        lines: Tensor = pixels.squeeze(-2).unflatten(-1, (self.lines, self.width))
        return lines


def short_time_power(view: STFT | Mel, n_times: int, width: int) -> PowerSpectrogram:
    """Hann-windowed power, about as many frames as columns. A window longer than the signal shrinks to it."""
    return PowerSpectrogram(
        n_times,
        hann_taper(min(view.n_fft, n_times)),
        frequency_bins(view.n_fft, low_hz=view.low_hz, high_hz=view.high_hz),
        hop=hop_length(n_times, width, view.n_fft),
        one_sided=True,
    )


def multitaper_power(view: Multitaper, n_times: int) -> PowerSpectrogram:
    """The host's method: zero-padded to a power of two, one spectrum in the middle of every step."""
    length = round(view.taper_seconds * SFREQ)
    tapers = dpss_tapers(length, half_bandwidth=view.half_bandwidth, count=view.tapers)
    n_fft = 2 ** (length - 1).bit_length()
    kept = frequency_bins(n_fft, low_hz=view.low_hz, high_hz=view.high_hz)
    return PowerSpectrogram(n_times, tapers, kept, hop=round(view.step_seconds * SFREQ), one_sided=False)


def stack_panels(panels: Tensor, height: int, width: int, *, blend_rows: bool = True) -> Tensor:
    """Resize every panel to its share of the height and stack them top to bottom.

    Parameters
    ----------
    panels : float32 tensor, shape (batch, n_panels, rows, columns)
    blend_rows : whether neighbouring rows may be mixed; lines of a trace may only be repeated

    Returns
    -------
    float32 tensor, shape (batch, height, width)
    """
    if not blend_rows:
        return panels.flatten(1, 2)[:, shown_lines(panels.shape[1], panels.shape[2], height)]
    heights = panel_heights(height, panels.shape[1])
    tall = heights.count(heights[0])
    parts = [
        _resize(part, rows, width).flatten(1, 2)
        for part, rows in ((panels[:, :tall], heights[0]), (panels[:, tall:], heights[-1]))
        if part.shape[1]
    ]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


def _resize(panels: Tensor, height: int, width: int) -> Tensor:
    if panels.shape[-2:] == (height, width):
        return panels
    return functional.interpolate(
        panels, size=(height, width), mode="bilinear", align_corners=False, antialias=True
    )
