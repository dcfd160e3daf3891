"""Arrays that a caller hands in, checked and brought into the form that the store would deliver.

Centring, floor and precision are those of :mod:`hms_tune.data.files.encoding`, so that a window predicts the
same
whether it comes from memory or from a competition folder.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hms_tune.config.input import InputConfig
from hms_tune.data.files.encoding import encode_eeg, encode_power
from hms_tune.data.schema import EEG_COLUMNS, SFREQ, SPECTROGRAM_COLUMNS, WINDOW_FRAMES, WINDOW_SAMPLES
from hms_tune.errors import SignalError

N_CHANNELS = len(EEG_COLUMNS)
N_BINS = len(SPECTROGRAM_COLUMNS)


def eeg_windows(eeg: NDArray[np.floating] | None, config: InputConfig) -> Tensor:
    """EEG as the store would deliver it: centred, gaps zero.

    Parameters
    ----------
    eeg : array, shape (n_windows, n_times, 20), µV, 200 Hz; of longer ones the central 50 s are read

    Returns
    -------
    float32 tensor, shape (n_windows, 20, at most 10,000)

    Raises
    ------
    SignalError
        If the shape is wrong, a value is infinite, or a window holds no value.
    """
    if eeg is None:
        raise SignalError(
            "this model reads EEG", hint="Pass an array of shape (n_windows, n_times, 20) in µV"
        )
    values = np.asarray(eeg, dtype=np.float32)
    if values.ndim != 3 or values.shape[2] != N_CHANNELS:
        raise SignalError(
            f"EEG has shape {values.shape}, expected (n_windows, n_times, {N_CHANNELS})",
            hint="Order the axes as windows, samples, channels",
        )
    least = round(config.window_seconds * SFREQ)
    if values.shape[1] < least:
        raise SignalError(
            f"EEG windows have {values.shape[1]} samples; this model reads {least}",
            hint=f"Cut windows of 50 s at {SFREQ:g} Hz",
        )
    start = max(0, (values.shape[1] - WINDOW_SAMPLES) // 2)
    values = values[:, start : start + WINDOW_SAMPLES]
    _refuse_unusable(values, "EEG")
    stored = np.empty(values.shape, np.float16)
    for place, window in zip(stored, values, strict=True):
        place[:] = encode_eeg(window.T.copy()).values
    return torch.from_numpy(np.nan_to_num(stored.astype(np.float32))).transpose(1, 2).contiguous()


def spectrogram_windows(spectrogram: NDArray[np.floating] | None) -> Tensor:
    """Spectrograms as the store would deliver them: natural log of power, gaps NaN.

    Parameters
    ----------
    spectrogram : array, shape (n_windows, 300, 400), µV²/Hz

    Returns
    -------
    float32 tensor, shape (n_windows, 400, 300)
    """
    if spectrogram is None:
        raise SignalError(
            "this model reads the 10-minute spectrogram",
            hint=f"Pass an array of shape (n_windows, {WINDOW_FRAMES}, {N_BINS}) in µV²/Hz",
        )
    values = np.asarray(spectrogram, dtype=np.float32)
    if values.ndim != 3 or values.shape[1:] != (WINDOW_FRAMES, N_BINS):
        raise SignalError(
            f"spectrogram has shape {values.shape}, expected (n_windows, {WINDOW_FRAMES}, {N_BINS})"
        )
    _refuse_unusable(values, "spectrogram")
    stored = np.empty(values.shape, np.float16)
    for place, window in zip(stored, values, strict=True):
        place[:] = encode_power(window.T.copy()).values
    return torch.from_numpy(stored.astype(np.float32)).transpose(1, 2).contiguous()


def _refuse_unusable(values: NDArray[np.float32], what: str) -> None:
    infinite = np.isinf(values).any(axis=(1, 2))
    if infinite.any():
        raise SignalError(f"{what} holds infinite values", where=f"window {int(np.argmax(infinite))}")
    empty = np.isnan(values).all(axis=(1, 2))
    if empty.any():
        raise SignalError(f"{what} holds no value, only NaN", where=f"window {int(np.argmax(empty))}")
