"""Ten-minute spectrograms by the method of the competition's host.

Each electrode is band-passed (Butterworth, order 3, 0.5–40 Hz, zero phase); the bipolar differences of a
chain go through a multitaper estimate (DPSS, NW 2, 3 tapers; windows of 4 s every 2 s) and are averaged over
the chain.
"""

from __future__ import annotations

from functools import cache
from itertools import pairwise

import numpy as np
import scipy.fft
from numpy.typing import NDArray
from scipy.signal import butter, sosfiltfilt
from scipy.signal.windows import dpss

from hms_tune.data.schema import FRAME_SECONDS, SFREQ
from hms_tune.data.synthetic.head import ELECTRODES
from hms_tune.signals import montage

WINDOW_SECONDS = 4
N_FFT = 1024
FIRST_BIN, LAST_BIN = 3, 102  # 0.59–19.92 Hz

CHAINS = {region: montage.CHAINS[region] for region in montage.REGIONS}
"""Regions in file order, each a chain of neighbouring electrodes."""


@cache
def bipolar_matrix() -> NDArray[np.float64]:
    """float64 (16, 19): the four chains' neighbour differences, as a matrix over the electrodes."""
    matrix = np.zeros((len(CHAINS) * montage.PAIRS_PER_REGION, len(ELECTRODES)))
    pairs = [pair for chain in CHAINS.values() for pair in pairwise(chain)]
    for row, (one, other) in enumerate(pairs):
        matrix[row, ELECTRODES.index(one)] = 1
        matrix[row, ELECTRODES.index(other)] = -1
    return matrix


def chain_spectrogram(eeg: NDArray[np.float32], n_frames: int, first_centre: int) -> NDArray[np.float32]:
    """Multitaper power of the four chains.

    Parameters
    ----------
    eeg : float32 (19, n_times), µV at 200 Hz
    n_frames : frames to compute, one every 2 s
    first_centre : sample at the centre of the first frame, at least 2 s from the start

    Returns
    -------
    float32 (n_frames, 400), µV²/Hz, columns as :data:`hms_tune.data.schema.SPECTROGRAM_COLUMNS`
    """
    centred = eeg - eeg.mean(axis=1, keepdims=True)
    filtered = sosfiltfilt(_band_pass(), centred, axis=1)
    bipolar = (bipolar_matrix() @ filtered).astype(np.float32)
    length = WINDOW_SECONDS * SFREQ
    start = first_centre - length // 2
    windows = np.lib.stride_tricks.sliding_window_view(bipolar[:, start:], length, axis=1)
    windows = windows[:, :: FRAME_SECONDS * SFREQ][:, :n_frames]
    power = np.zeros((n_frames, len(CHAINS), LAST_BIN - FIRST_BIN + 1), dtype=np.float32)
    for pair in range(len(bipolar)):
        for taper in _tapers():
            spectrum = scipy.fft.rfft(windows[pair] * taper, n=N_FFT, axis=1)[:, FIRST_BIN : LAST_BIN + 1]
            power[:, pair // montage.PAIRS_PER_REGION] += spectrum.real**2 + spectrum.imag**2
    power /= montage.PAIRS_PER_REGION * len(_tapers())
    return power.reshape(n_frames, -1)


@cache
def _tapers() -> NDArray[np.float32]:
    """DPSS tapers scaled by √fs and, for the transform, by 1/fs: float32 (3, 800)."""
    tapers = dpss(WINDOW_SECONDS * SFREQ, NW=2, Kmax=3)
    return np.asarray(tapers * np.sqrt(SFREQ) / SFREQ, dtype=np.float32)


@cache
def _band_pass() -> NDArray[np.float64]:
    return np.asarray(butter(3, [0.5, 40], btype="bandpass", fs=SFREQ, output="sos"))
