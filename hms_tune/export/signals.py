"""Signals that a caller hands in, checked and brought into the form that the store would deliver.

Centring, floor and precision are those of :mod:`hms_tune.data.files.encoding`, so that a window predicts the
same whether it comes from memory or from a competition folder. A table or a file may use the names that
:mod:`hms_tune.data.files.synonyms` knows.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from hms_tune.config.input import InputConfig
from hms_tune.data.files.decoding import check_footer, decode
from hms_tune.data.files.defects import refuse
from hms_tune.data.files.encoding import encode_eeg, encode_power
from hms_tune.data.files.signal_file import SignalFile
from hms_tune.data.files.silence import is_silent
from hms_tune.data.files.synonyms import DISPENSABLE, meant_by
from hms_tune.data.schema import (
    EEG_COLUMNS,
    SFREQ,
    SPECTROGRAM_COLUMNS,
    WINDOW_FRAMES,
    WINDOW_SAMPLES,
    Kind,
)
from hms_tune.errors import SignalError

N_CHANNELS = len(EEG_COLUMNS)
N_BINS = len(SPECTROGRAM_COLUMNS)


Windows: TypeAlias = NDArray[np.floating] | pd.DataFrame | str | os.PathLike[str]
"""Windows in an array; or one, in an array without the first axis, in a table, or by its file's path."""


def eeg_windows(eeg: Windows | None, config: InputConfig) -> Tensor:
    """EEG as the store would deliver it: centred, gaps zero.

    Parameters
    ----------
    eeg : shape (n_windows, n_times, 20) or (n_times, 20), µV, 200 Hz; of longer ones the central 50 s count

    Returns
    -------
    float32 tensor, shape (n_windows, 20, at most 10,000)

    Raises
    ------
    SignalError
        If the shape or a column is wrong, a value is infinite, or a window holds no value.
    DataError
        If a file cannot be read.
    """
    if eeg is None:
        raise SignalError(
            "this model reads EEG", hint="Pass an array of shape (n_windows, n_times, 20) in µV"
        )
    values = _as_array(eeg, "eeg")
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
    _refuse_unusable(values, "eeg")
    stored = np.empty(values.shape, np.float16)
    for place, window in zip(stored, values, strict=True):
        place[:] = encode_eeg(window.T.copy()).values
    return torch.from_numpy(np.nan_to_num(stored.astype(np.float32))).transpose(1, 2).contiguous()


def spectrogram_windows(spectrogram: Windows | None) -> Tensor:
    """Spectrograms as the store would deliver them: natural log of power, gaps NaN.

    Parameters
    ----------
    spectrogram : shape (n_windows, 300, 400) or (300, 400), µV²/Hz

    Returns
    -------
    float32 tensor, shape (n_windows, 400, 300)
    """
    if spectrogram is None:
        raise SignalError(
            "this model reads the 10-minute spectrogram",
            hint=f"Pass an array of shape (n_windows, {WINDOW_FRAMES}, {N_BINS}) in µV²/Hz",
        )
    values = _as_array(spectrogram, "spectrogram")
    if values.ndim != 3 or values.shape[1:] != (WINDOW_FRAMES, N_BINS):
        raise SignalError(
            f"spectrogram has shape {values.shape}, expected (n_windows, {WINDOW_FRAMES}, {N_BINS})"
        )
    _refuse_unusable(values, "spectrogram")
    stored = np.empty(values.shape, np.float16)
    for place, window in zip(stored, values, strict=True):
        place[:] = encode_power(window.T.copy()).values
    return torch.from_numpy(stored.astype(np.float32)).transpose(1, 2).contiguous()


def _as_array(given: Windows, kind: Kind) -> NDArray[np.float32]:
    """Windows as float32 ``(n_windows, n_rows, n_columns)``; of an array of another shape, as it is."""
    if isinstance(given, str | os.PathLike):
        file = SignalFile(kind, "test", 0, Path(given), offsets=(0.0,))
        refuse(check_footer(file)[1])
        values, defects = decode(file)
        refuse(defects)
        return values.T[np.newaxis]
    if isinstance(given, pd.DataFrame):
        return _columns(given, kind)[np.newaxis]
    values = np.asarray(given, dtype=np.float32)
    return values[np.newaxis] if values.ndim == 2 else values


def _columns(table: pd.DataFrame, kind: Kind) -> NDArray[np.float32]:
    """The signal columns of a table, found by name."""
    columns = EEG_COLUMNS if kind == "eeg" else SPECTROGRAM_COLUMNS
    known = table.rename(columns=meant_by(kind, [str(name) for name in table.columns]))
    missing = [name for name in columns if name not in known.columns and name != DISPENSABLE]
    if missing:
        named = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
        raise SignalError(
            f"the table has no column {named}",
            hint="Pass a table as pandas reads it from a file of the competition, or an array",
        )
    return known.reindex(columns=list(columns)).to_numpy(dtype=np.float32)


def _refuse_unusable(values: NDArray[np.float32], kind: Kind) -> None:
    what = "EEG" if kind == "eeg" else kind
    infinite = np.isinf(values).any(axis=(1, 2))
    if infinite.any():
        raise SignalError(f"{what} holds infinite values", where=f"window {int(np.argmax(infinite))}")
    for number, window in enumerate(values):
        if is_silent(window, kind):
            raise SignalError(f"{what} holds no value, only NaN", where=f"window {number}")
