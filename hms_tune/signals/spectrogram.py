"""Power spectrograms of batched signals: short-time Fourier transforms with one taper or several."""

from __future__ import annotations

import math
from dataclasses import dataclass

import scipy
import torch
from torch import Tensor, nn
from torch.nn import functional

from hms_tune.signals.montage import SFREQ

POWER_FLOOR = 1e-4
"""Added to power before the logarithm, µV²/Hz: silence is -40 dB, far below any EEG."""

MATMUL_LIMIT = 1024
"""Longest FFT that a CPU computes faster as a matrix product over the few bins that are kept."""

CPU_VALUES, GPU_VALUES = 2**22, 2**26
"""Most values (16 and 256 MiB) that one part of a batch holds at once."""

MOST_OVERLAP = 16
"""Most frames that see one sample. A Hann-windowed power needs 8 to be known between frames as well."""


def decibel(power: Tensor) -> Tensor:
    """Power in µV²/Hz as dB re 1 µV²/Hz, not below -40 dB."""
    return 10.0 * torch.log10(power + POWER_FLOOR)


def part_size(values_of_one: int, device: torch.device) -> int:
    """How many samples are transformed at once, if one holds so many values on the way; at least one."""
    most = CPU_VALUES if device.type == "cpu" else GPU_VALUES
    return max(1, most // max(1, values_of_one))


@dataclass(frozen=True, slots=True)
class FrequencyBins:
    """The bins ``first`` to ``stop`` (excluded) of a transform of ``n_fft`` points, ``width`` Hz apart."""

    n_fft: int
    width: float
    first: int
    stop: int


def frequency_bins(n_fft: int, *, low_hz: float, high_hz: float) -> FrequencyBins:
    """The FFT bins whose frequency lies in [low_hz, high_hz]; never none."""
    width = SFREQ / n_fft
    first = math.ceil(low_hz / width - 1e-9)
    last = min(math.floor(high_hz / width + 1e-9), n_fft // 2)
    if last < first:
        first = last = min(round((low_hz + high_hz) / 2 / width), n_fft // 2)
    return FrequencyBins(n_fft, width, first, last + 1)


def hop_length(n_times: int, n_frames: int, n_fft: int) -> int:
    """Samples between frames.

    There are at least ``n_frames`` frames, unless so many would overlap more than :data:`MOST_OVERLAP` times;
    no sample is left out of every window.
    """
    least = min(n_fft, n_times) // MOST_OVERLAP
    return max(1, min(max(n_times // n_frames, least), n_fft // 2))


def mel_filterbank(frequencies: Tensor, n_mels: int, *, low_hz: float, high_hz: float) -> Tensor:
    """Triangular bands, evenly spaced on the mel scale, each with weights that sum to 1.

    The scale is mel(f) = 2595 log10(1 + f / 700) (O'Shaughnessy, Speech Communication, 1987). Over the few
    hertz of EEG it is nearly linear, and many narrow bands would fall between two FFT bins; so each side
    of a triangle reaches at least one bin's width, and no band is empty.

    Parameters
    ----------
    frequencies : float tensor, shape (n_bins,), evenly spaced, Hz
    n_mels : number of bands
    low_hz, high_hz : outer feet of the first and last band, Hz

    Returns
    -------
    float32 tensor, shape (n_mels, n_bins)
    """
    low, high = (2595.0 * math.log10(1.0 + edge / 700.0) for edge in (low_hz, high_hz))
    edges = 700.0 * (10.0 ** (torch.linspace(low, high, n_mels + 2, dtype=torch.float64) / 2595.0) - 1.0)
    bin_width = float(frequencies[1] - frequencies[0]) if len(frequencies) > 1 else high_hz - low_hz
    centre = edges[1:-1, None].clamp(float(frequencies[0]), float(frequencies[-1]))
    reach = edges.diff().clamp(min=bin_width)
    distance = frequencies.to(torch.float64)[None, :] - centre
    sides = torch.where(distance < 0, -distance / reach[:-1, None], distance / reach[1:, None])
    bands = (1.0 - sides).clamp(min=0.0)
    return (bands / bands.sum(dim=1, keepdim=True)).to(torch.float32)


def hann_taper(length: int) -> Tensor:
    """A Hann window scaled for a one-sided power density: float64 tensor, shape (1, length)."""
    window = torch.hann_window(length, dtype=torch.float64)
    return (window * math.sqrt(2.0 / (SFREQ * float(window.square().sum())))).unsqueeze(0)


def dpss_tapers(length: int, *, half_bandwidth: float, count: int) -> Tensor:
    """Slepian tapers in the scale of the competition's host: float64 tensor, shape (count, length).

    The host multiplies tapers of unit energy by √fs, divides their transforms by fs, and averages the squared
    magnitudes: a density over both signs of frequency, half of the one-sided one.
    """
    tapers = torch.from_numpy(scipy.signal.windows.dpss(length, NW=half_bandwidth, Kmax=count).copy())
    return tapers / math.sqrt(SFREQ * count)


class PowerSpectrogram(nn.Module):
    """Power spectral density over time, of some frequencies, summed over tapers.

    Frames lie centred on a regular grid that spans the signal; its edges are extended by their mirror
    image. On a CPU a transform of up to :data:`MATMUL_LIMIT` points is a matrix product with the tapered
    sines and cosines of the bins that are kept; it agrees with the FFT to rounding and is several times
    faster. A large batch is done in parts, so that overlapping frames never fill the memory.

    Parameters
    ----------
    n_times : samples of every signal this transform will see
    tapers : float64 tensor, shape (n_tapers, length), length ≤ n_times; scaled so that the sum over tapers of
        the squared magnitudes of the transforms is the density wanted
    kept : the frequencies; frames are zero-padded to its ``n_fft`` samples
    hop : samples between frames
    one_sided : whether the tapers count both signs of frequency, which two bins do not have
    """

    tapers: Tensor
    basis: Tensor
    frequencies: Tensor
    one_sided: Tensor

    def __init__(
        self,
        n_times: int,
        tapers: Tensor,
        kept: FrequencyBins,
        *,
        hop: int,
        one_sided: bool,
    ) -> None:
        super().__init__()
        self.n_fft, self.hop = kept.n_fft, hop
        self.n_frames = n_times // hop
        self.length = tapers.shape[1]
        self.first, self.stop = kept.first, kept.stop
        span = (self.n_frames - 1) * hop + self.length
        self.before = max(0, (span - n_times) // 2)
        self.after = max(0, span - n_times - self.before)
        bins = torch.arange(self.first, self.stop, dtype=torch.float64)
        phase = torch.arange(self.length, dtype=torch.float64)[:, None] * bins * (2 * math.pi / kept.n_fft)
        waves = torch.stack([phase.cos(), phase.sin()], dim=1)
        basis = tapers[:, :, None, None] * waves  # (n_tapers, length, 2, n_bins)
        unpaired = (bins == 0) | (bins == kept.n_fft / 2)
        self.has_unpaired = one_sided and bool(unpaired.any())
        self.register_buffer("tapers", tapers.to(torch.float32), persistent=False)
        self.register_buffer("basis", basis.transpose(0, 1).flatten(1).to(torch.float32), persistent=False)
        self.register_buffer("frequencies", (bins * kept.width).to(torch.float32), persistent=False)
        self.register_buffer("one_sided", 1.0 - 0.5 * unpaired.to(torch.float32), persistent=False)

    def forward(self, eeg: Tensor) -> Tensor:
        """Power of each channel.

        Parameters
        ----------
        eeg : float32 tensor, shape (batch, n_chans, n_times), µV

        Returns
        -------
        float32 tensor, shape (batch, n_chans, n_frames, n_bins), µV²/Hz
        """
        padded = functional.pad(eeg, (self.before, self.after), mode="reflect")
        frames = padded.unfold(-1, self.length, self.hop)
        parts = frames.split(part_size(frames[:1].numel(), eeg.device))
        power = torch.cat([self._power(part) for part in parts])
        return power * self.one_sided if self.has_unpaired else power

    def _power(self, frames: Tensor) -> Tensor:
        if frames.device.type == "cpu" and self.n_fft <= MATMUL_LIMIT:
            waves = (frames @ self.basis).unflatten(-1, (2 * len(self.tapers), -1))
            density: Tensor = waves.square().sum(dim=-2)
            return density
        power = torch.zeros(*frames.shape[:-1], self.stop - self.first, device=frames.device)
        for taper in self.tapers:
            spectrum = torch.fft.rfft(frames * taper, n=self.n_fft)[..., self.first : self.stop]
            power += spectrum.real.square() + spectrum.imag.square()
        return power
