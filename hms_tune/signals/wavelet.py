"""Power over time by complex Morlet wavelets, as one FFT forwards and many short ones backwards.

A wavelet is a Gaussian in the frequency domain. Only the bins under it are transformed back, so a slow
wavelet costs a short FFT, and the output comes out at a multiple of the image's columns rather than at the
sampling rate: nothing is lost, because the bins left out hold nothing, and memory is bounded by the image.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import scipy
import torch
from torch import Tensor, nn
from torch.nn import functional

from hms_tune.signals.montage import SFREQ
from hms_tune.signals.spectrogram import part_size

REACH = 3.5
"""Standard deviations of a wavelet that are kept in frequency (beyond lies 1e-6 of its power) and in time."""


def wavelet_frequencies(count: int, *, low_hz: float, high_hz: float, logarithmic: bool) -> Tensor:
    """Centre frequencies from low to high, both included: float64 tensor, shape (count,), Hz."""
    if logarithmic:
        return torch.logspace(math.log10(low_hz), math.log10(high_hz), count, dtype=torch.float64)
    return torch.linspace(low_hz, high_hz, count, dtype=torch.float64)


@dataclass(frozen=True, slots=True)
class _Grid:
    """Columns of the image, mirrored columns on either side, and the samples they cover."""

    columns: int
    margin: int
    n_times: int

    @property
    def all_columns(self) -> int:
        return self.columns + 2 * self.margin

    @property
    def samples(self) -> int:
        return round(self.n_times * self.all_columns / self.columns)

    @property
    def before(self) -> int:
        return round(self.n_times * self.margin / self.columns)


def _grid(columns: int, n_times: int, padding: int) -> _Grid:
    """The least margin that covers the padding and makes both FFTs fast, or the largest there can be."""
    margin = math.ceil(min(padding, n_times - 2) * columns / n_times)
    while margin > 0 and _Grid(columns, margin, n_times).before >= n_times - 1:
        margin -= 1
    least = _Grid(columns, margin, n_times)
    for wider in range(margin, margin + 32):
        grid = _Grid(columns, wider, n_times)
        if grid.before >= n_times - 1:
            break
        if _is_fast(grid.all_columns) and _is_fast(grid.samples):
            return grid
    return least


def _is_fast(length: int) -> bool:
    return bool(scipy.fft.next_fast_len(length) == length)


class MorletPower(nn.Module):
    """Power spectral density over time at given frequencies.

    A wavelet of frequency f and c cycles has the standard deviations c / (2πf) in time and f / c in
    frequency (Tallon-Baudry et al., Journal of Neuroscience, 1997). Its squared magnitude is divided by
    its noise bandwidth, so that white noise has its one-sided density at every frequency. Each column is
    the mean over its span of time.

    Parameters
    ----------
    n_times : samples of every signal this transform will see
    frequencies : float64 tensor, shape (n_frequencies,), Hz, ascending, above 0
    cycles : cycles of a wavelet
    columns : columns of the output
    """

    def __init__(self, n_times: int, *, frequencies: Tensor, cycles: float, columns: int) -> None:
        super().__init__()
        self.columns = min(columns, n_times)
        padding = math.ceil(REACH * cycles / (2 * math.pi * float(frequencies[0])) * SFREQ)
        self.grid = _grid(self.columns, n_times, padding)
        spread = frequencies / cycles
        bins = 2 * REACH * spread * (self.grid.samples / SFREQ) + 1
        oversampling = torch.ceil(bins / self.grid.all_columns).long()
        self.oversampling = [int(each) for each in oversampling.unique()]
        for group, factor in enumerate(self.oversampling):
            members = oversampling == factor
            first, gain = self._wavelets(frequencies[members], spread[members], factor)
            self.register_buffer(f"first_{group}", first, persistent=False)
            self.register_buffer(f"gain_{group}", gain, persistent=False)

    def _wavelets(self, frequencies: Tensor, spread: Tensor, factor: int) -> tuple[Tensor, Tensor]:
        """The first bin of each wavelet, and its gains: complex64 (n_frequencies, factor · all_columns)."""
        length, samples = factor * self.grid.all_columns, self.grid.samples
        first = (frequencies * samples / SFREQ).round().long() - length // 2
        bins = first[:, None] + torch.arange(length)
        distance = (bins * (SFREQ / samples) - frequencies[:, None]) / spread[:, None]
        gain = torch.exp(-0.5 * distance.square())
        gain *= torch.sqrt(2.0 / (spread * math.sqrt(math.pi)))[:, None] * (length / samples)
        gain[(bins < 1) | (bins > samples // 2) | (distance.abs() > REACH)] = 0.0
        # Values lie in the middle of their spans: half a step later than the transform would have them.
        return first, torch.polar(gain, bins.double() * (math.pi / length)).to(torch.complex64)

    def forward(self, eeg: Tensor) -> Tensor:
        """Power of each channel.

        Parameters
        ----------
        eeg : float32 tensor, shape (batch, n_chans, n_times), µV

        Returns
        -------
        float32 tensor, shape (batch, n_chans, columns, n_frequencies), µV²/Hz
        """
        before = self.grid.before
        after = self.grid.samples - self.grid.n_times - before
        spectrum = torch.fft.rfft(functional.pad(eeg, (before, after), mode="reflect"))
        largest = max(self.get_buffer(f"gain_{group}").numel() for group in range(len(self.oversampling)))
        parts = spectrum.split(part_size(2 * largest * eeg.shape[1], eeg.device))
        return torch.cat([self._power(part) for part in parts]).transpose(-1, -2)

    def _power(self, spectrum: Tensor) -> Tensor:
        groups = []
        for group, factor in enumerate(self.oversampling):
            gain = self.get_buffer(f"gain_{group}")
            bins = self.get_buffer(f"first_{group}")[:, None] + torch.arange(
                gain.shape[1], device=spectrum.device
            )
            under = spectrum[..., bins.clamp(0, spectrum.shape[-1] - 1)]
            envelope = torch.view_as_real(torch.fft.ifft(under * gain)).square().sum(dim=-1)
            start = factor * self.grid.margin
            kept = envelope[..., start : start + factor * self.columns]
            groups.append(kept.unflatten(-1, (self.columns, factor)).mean(dim=-1))
        return torch.cat(groups, dim=-2)
