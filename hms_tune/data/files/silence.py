"""Labelled windows without a single number."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hms_tune.data.files.defects import Defect, DefectKind
from hms_tune.data.files.signal_file import SignalFile
from hms_tune.data.schema import EEG_COLUMNS, FRAME_SECONDS, WINDOW_FRAMES, WINDOW_SAMPLES, window_start

SCALP_CHANNELS = len(EEG_COLUMNS) - 1
"""All channels but the last, the electrocardiogram, which is at the level of millivolts by nature."""


def windows_of_nan(file: SignalFile, values: NDArray[np.float32]) -> list[Defect]:
    """The file's labelled windows that hold nothing but NaN.

    In a training EEG that is an error: its row would teach votes on silence. A test EEG must be answered all
    the same, and a spectrogram may be read beside an EEG; there it is a warning.

    Parameters
    ----------
    file : the file with the offsets of its labels
    values : float32 (n_columns, n_rows)
    """
    if file.kind == "eeg":
        length, starts = WINDOW_SAMPLES, [window_start(offset) for offset in file.offsets]
        values = values[:SCALP_CHANNELS]
    else:
        length, starts = WINDOW_FRAMES, [int(offset // FRAME_SECONDS) for offset in file.offsets]
    silent = [number for number, start in enumerate(starts) if _is_silent(values[:, start : start + length])]
    if not silent:
        return []
    learnt = file.kind == "eeg" and file.split == "train"
    what = f"the window labelled at {file.offsets[silent[0]]:g} s holds nothing but NaN"
    what += f" ({len(silent)} such windows)" if len(silent) > 1 else ""
    hint = (
        f"Remove the rows of {file.kind}_id {file.identifier} whose window has no signal; it teaches nothing."
    )
    kind = DefectKind.LABELLED_WINDOW_OF_NAN if learnt else DefectKind.WINDOW_OF_NAN
    return [file.defect(kind, what, hint, row=starts[silent[0]])]


def _is_silent(window: NDArray[np.float32]) -> bool:
    """Whether a window within the file is all NaN; one column tells nearly always, and spares the others."""
    return window.size > 0 and bool(np.isnan(window[0]).all()) and bool(np.isnan(window).all())
