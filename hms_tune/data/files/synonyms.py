"""Other names and types in which recordings come, where they leave no doubt of what is meant.

The 10–20 system renamed T3, T4, T5 and T6 to T7, T8, P7 and P8; recorders write FP1, ECG, and
integers. (American Clinical Neurophysiology Society, Guideline 2, 2016.)
"""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from hms_tune.data.schema import EEG_COLUMNS, FREQUENCIES, SPECTROGRAM_COLUMNS, Kind
from hms_tune.signals import montage

_RENAMED = {"T7": "T3", "T8": "T4", "P7": "T5", "P8": "T6", "ECG": "EKG"}
_EEG = {name.upper(): name for name in EEG_COLUMNS} | _RENAMED

DISPENSABLE = "EKG"
"""No electrode of the scalp: a recording without it is read with NaN there."""

LOSSLESS = (pa.int8(), pa.uint8(), pa.int16(), pa.uint16())
"""Integers that float32 holds exactly."""

_HALF_A_ROUNDING = 0.005
"""The competition's names round a frequency to two decimals, Hz."""

_SPECTROGRAM = {
    region: SPECTROGRAM_COLUMNS[number * len(FREQUENCIES) : (number + 1) * len(FREQUENCIES)]
    for number, region in enumerate(montage.REGIONS)
}


def meant_by(kind: Kind, names: Sequence[str]) -> dict[str, str]:
    """The competition's name of each column that has another; a name that is there itself is not replaced."""
    meant: dict[str, str] = {}
    for name in names:
        known = _EEG.get(name.upper()) if kind == "eeg" else _frequency(name)
        if known is not None and known != name and known not in names and known not in meant.values():
            meant[name] = known
    return meant


def _frequency(name: str) -> str | None:
    """The column of a region and a frequency that is written with other decimals, such as LL_0.586."""
    region, _, hertz = name.partition("_")
    try:
        asked = float(hertz)
    except ValueError:
        return None
    for column, frequency in zip(_SPECTROGRAM.get(region, ()), FREQUENCIES, strict=False):
        if abs(asked - frequency) <= _HALF_A_ROUNDING:
            return column
    return None
