"""The montage of an EEG screen: bipolar chains, filtered, with the electrocardiogram below."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.signal import butter, sosfiltfilt, spectrogram
from scipy.signal.windows import dpss

from hms_tune.data.check.quality import FLAT_MICROVOLTS, MILLIVOLT_MICROVOLTS
from hms_tune.data.schema import EEG_COLUMNS, SFREQ, WINDOW_SAMPLES
from hms_tune.reports.figures.example import Example
from hms_tune.signals.montage import CHAINS

LOW_HZ, HIGH_HZ = 0.5, 40.0
"""What is shown of the EEG: the competition host's own band."""

SENSITIVITIES = (10, 15, 20, 30, 50, 70, 100, 150, 200, 300, 500, 700, 1000)
"""Distances between two lines, µV, of which the one that suits the window is taken."""

_SETTLING_SECONDS = 10


@dataclass(frozen=True, slots=True)
class Trace:
    """One line of the montage.

    Parameters
    ----------
    name : ``Fp1–F7`` or ``EKG``
    chain : ``LL``, ``RL``, ``LP``, ``RP``, ``midline`` or ``EKG``
    values : float64 (10000,), µV; NaN where the file has NaN
    remark : what is wrong with it in this window, empty when nothing is
    """

    name: str
    chain: str
    values: NDArray[np.float64]
    remark: str


def montage(example: Example) -> list[Trace]:
    """The lines of a window, from the left temporal chain down to the electrocardiogram.

    Each channel is band-passed without phase shift (Butterworth, order 3, 0.5–40 Hz), over the window and the
    ten seconds around it that the recording has.
    """
    start = max(0, example.first_sample - _SETTLING_SECONDS * SFREQ)
    stop = example.first_sample + WINDOW_SAMPLES + _SETTLING_SECONDS * SFREQ
    channels = example.eeg[:, start:stop].astype(np.float64)
    window = slice(example.first_sample - start, example.first_sample - start + WINDOW_SAMPLES)
    lines = [
        (f"{anode}–{cathode}", chain, _channel(channels, anode) - _channel(channels, cathode))
        for chain, electrodes in CHAINS.items()
        for anode, cathode in pairwise(electrodes)
    ]
    lines.append(("EKG", "EKG", _channel(channels, "EKG")))
    return [_trace(name, chain, values, window) for name, chain, values in lines]


def sensitivity(traces: list[Trace]) -> int:
    """The distance between two lines, µV, at which the window neither crowds nor lies flat."""
    scalp = np.stack([trace.values for trace in traces if trace.chain != "EKG"])
    with np.errstate(all="ignore"):
        spans = np.array([_span(values) for values in scalp])
    typical = float(np.median(spans[spans > FLAT_MICROVOLTS])) if (spans > FLAT_MICROVOLTS).any() else 10.0
    return next((step for step in SENSITIVITIES if step >= 0.8 * typical), SENSITIVITIES[-1])


def region_power(traces: list[Trace]) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Multitaper power of the four regions over the window, for recordings without a spectrogram file.

    As the host's, but with windows of 2 s every quarter second, since 50 s are few.

    Returns
    -------
    seconds : float64 (n_frames,), centres of the frames
    frequencies : float64 (n_bins,), Hz, up to 20
    power : float64 (4, n_bins, n_frames), µV²/Hz
    """
    length = 2 * SFREQ
    tapers = dpss(length, NW=2, Kmax=3)
    powers = []
    for region in ("LL", "RL", "LP", "RP"):
        values = np.nan_to_num(np.stack([trace.values for trace in traces if trace.chain == region]))
        estimates = []
        for taper in tapers:
            hertz, seconds, power = spectrogram(
                values, SFREQ, window=taper, nperseg=length, noverlap=length - SFREQ // 4, nfft=1024
            )
            estimates.append(power)
        powers.append(np.mean(estimates, axis=(0, 1)))
    shown = (hertz >= LOW_HZ) & (hertz <= 20.0)
    return seconds, hertz[shown], np.stack(powers)[:, shown]


def _channel(channels: NDArray[np.float64], name: str) -> NDArray[np.float64]:
    return np.asarray(channels[EEG_COLUMNS.index(name)])


def _trace(name: str, chain: str, values: NDArray[np.float64], window: slice) -> Trace:
    absent = np.isnan(values)
    if absent[window].all():
        return Trace(name, chain, np.full(WINDOW_SAMPLES, np.nan), "no signal")
    if absent.any():
        position = np.arange(len(values))
        values = np.interp(position, position[~absent], values[~absent])
    filtered = sosfiltfilt(_BAND_PASS, values - np.median(values))
    filtered[absent] = np.nan
    shown = filtered[window]
    span = _span(shown)
    remark = (
        ""
        if chain == "EKG"
        else "flat"
        if span < FLAT_MICROVOLTS
        else "mV"
        if span > MILLIVOLT_MICROVOLTS
        else ""
    )
    return Trace(name, chain, shown, remark)


def _span(values: NDArray[np.float64]) -> float:
    """Distance of the 1st from the 99th percentile, µV; 0 without signal."""
    there = values[~np.isnan(values)]
    return float(np.ptp(np.percentile(there, [1, 99]))) if there.size else 0.0


_BAND_PASS = butter(3, [LOW_HZ, HIGH_HZ], btype="bandpass", fs=SFREQ, output="sos")
