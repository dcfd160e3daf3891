"""Zero-phase filters, applied where they are cheapest: in the frequency domain.

A filter run forwards and backwards multiplies the spectrum by its squared magnitude and leaves the
phase alone. So one real FFT, one product and one inverse FFT replace both passes, and a band-pass and
a notch cost no more than either. Against ``scipy.signal.sosfiltfilt(..., padtype="even")`` with the
same padding the result differs by less than 1e-3 of the signal's standard deviation (what is left are
the start-up transients of the recursive filter, which have decayed within the padding).
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import scipy
import torch
from torch import Tensor, nn
from torch.nn import functional

from hms_tune.signals.montage import SFREQ

BUTTERWORTH_ORDER = 3
"""Order of the competition host's band-pass."""

NOTCH_QUALITY = 30.0
"""Centre frequency of the notch over its -3 dB bandwidth."""


def squared_magnitude(
    frequencies: npt.NDArray[np.float64],
    *,
    highpass_hz: float | None,
    lowpass_hz: float | None,
    notch_hz: float | None,
) -> npt.NDArray[np.float64]:
    """Gain of the zero-phase filter: the squared magnitude response of its causal prototype.

    Parameters
    ----------
    frequencies : float64 array, shape (n,), Hz
    highpass_hz, lowpass_hz : -3 dB corners of the Butterworth prototype (-6 dB after both passes), Hz
    notch_hz : centre of the notch, Hz

    Returns
    -------
    float64 array, shape (n,), between 0 and 1
    """
    gain = np.ones_like(frequencies)
    corners = [corner for corner in (highpass_hz, lowpass_hz) if corner is not None]
    if corners:
        kind = "bandpass" if len(corners) == 2 else "highpass" if highpass_hz is not None else "lowpass"
        corner = corners if len(corners) == 2 else corners[0]
        zpk = scipy.signal.butter(BUTTERWORTH_ORDER, corner, btype=kind, output="zpk", fs=SFREQ)
        gain *= np.abs(scipy.signal.freqz_zpk(*zpk, worN=frequencies, fs=SFREQ)[1]) ** 2
    if notch_hz is not None:
        numerator, denominator = scipy.signal.iirnotch(notch_hz, NOTCH_QUALITY, fs=SFREQ)
        gain *= np.abs(scipy.signal.freqz(numerator, denominator, worN=frequencies, fs=SFREQ)[1]) ** 2
    return gain


def padding(n_times: int, *, highpass_hz: float | None) -> int:
    """Samples mirrored at either edge: three periods of the lower corner, but at least 2 s."""
    seconds = max(2.0, 3.0 / highpass_hz) if highpass_hz else 2.0
    return min(math.ceil(seconds * SFREQ), n_times - 1)


class ZeroPhaseFilter(nn.Module):
    """Butterworth band-pass (order 3) and mains notch without phase shift.

    Both edges are extended by their mirror image before the FFT, so that the filter meets no step.

    Parameters
    ----------
    n_times : samples of every signal this filter will see
    highpass_hz, lowpass_hz, notch_hz : corners in Hz; None leaves that part out
    """

    gain: Tensor | None

    def __init__(
        self,
        n_times: int,
        *,
        highpass_hz: float | None = None,
        lowpass_hz: float | None = None,
        notch_hz: float | None = None,
    ) -> None:
        super().__init__()
        self.n_times = n_times
        self.padding = padding(n_times, highpass_hz=highpass_hz)
        # The mirror image also fills up to a length that the FFT likes: zeros would be a step.
        fast = int(scipy.fft.next_fast_len(n_times + 2 * self.padding, real=True))
        self.n_fft = min(fast, 2 * n_times + self.padding - 1)
        gain = None
        if highpass_hz is not None or lowpass_hz is not None or notch_hz is not None:
            frequencies = np.fft.rfftfreq(self.n_fft, 1.0 / SFREQ).astype(np.float64)
            response = squared_magnitude(
                frequencies,
                highpass_hz=highpass_hz,
                lowpass_hz=lowpass_hz,
                notch_hz=notch_hz,
            )
            gain = torch.from_numpy(response.astype(np.float32))
        self.register_buffer("gain", gain, persistent=False)

    def forward(self, eeg: Tensor) -> Tensor:
        """Filter the last axis.

        Parameters
        ----------
        eeg : float32 tensor, shape (batch, n_chans, n_times), µV

        Returns
        -------
        float32 tensor of the same shape, µV
        """
        if self.gain is None:
            return eeg
        after = self.n_fft - self.n_times - self.padding
        spectrum = torch.fft.rfft(functional.pad(eeg, (self.padding, after), mode="reflect"))
        spectrum *= self.gain
        filtered: Tensor = torch.fft.irfft(spectrum, n=self.n_fft)
        return filtered[..., self.padding : self.padding + self.n_times]


def band_pass_each(eeg: Tensor, low_hz: Tensor, high_hz: Tensor) -> Tensor:
    """A zero-phase band-pass with edges of its own for every sample.

    The gain falls off like that of a Butterworth filter of order 3 run forwards and backwards: -6 dB at an
    edge, 36 dB per octave beyond it. A frequency that is three times as high as the lower edge and a third
    of the upper one keeps 99.7 % of its amplitude.

    Parameters
    ----------
    eeg : float32 tensor, shape (batch, n_chans, n_times), µV
    low_hz, high_hz : float32 tensors, shape (batch,), Hz; a lower edge of 0 leaves the slow part in

    Returns
    -------
    float32 tensor of the shape of ``eeg``, µV
    """
    n_times = eeg.shape[-1]
    edge = padding(n_times, highpass_hz=None)
    n_fft = min(int(scipy.fft.next_fast_len(n_times + 2 * edge, real=True)), 2 * n_times + edge - 1)
    padded = functional.pad(eeg, (edge, n_fft - n_times - edge), mode="reflect")
    frequencies = torch.fft.rfftfreq(n_fft, 1.0 / SFREQ, device=eeg.device).clamp(min=1e-6)
    order = 2 * BUTTERWORTH_ORDER
    gain = 1.0 / (1.0 + (low_hz[:, None] / frequencies) ** order)
    gain = gain / (1.0 + (frequencies / high_hz[:, None]) ** order)
    spectrum = torch.fft.rfft(padded) * gain[:, None, :]
    filtered: Tensor = torch.fft.irfft(spectrum, n=n_fft)
    return filtered[..., edge : edge + n_times]
