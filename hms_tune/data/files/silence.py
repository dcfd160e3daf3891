"""Windows without a single number: nothing can be learnt from them, and nothing predicted."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hms_tune.data.files.defects import Defect, DefectKind
from hms_tune.data.files.signal_file import SignalFile
from hms_tune.data.schema import (
    EEG_COLUMNS,
    FRAME_SECONDS,
    WINDOW_FRAMES,
    WINDOW_SAMPLES,
    Kind,
    window_start,
)

SCALP_CHANNELS = len(EEG_COLUMNS) - 1
"""All channels but the last, the electrocardiogram, which is at the level of millivolts by nature."""

SILENT_HINT = "Restore the file from its source, or remove its row; `hms-tune predict` refuses it."


def windows_of_nan(file: SignalFile, values: NDArray[np.float32]) -> list[Defect]:
    """The file's labelled windows that hold nothing but NaN.

    In an EEG that is an error: a row for training would teach votes on silence, and prediction refuses it.
    A spectrogram may be read beside an EEG; there it is a warning.

    Parameters
    ----------
    file : the file with the offsets of its labels
    values : float32 (n_columns, n_rows)
    """
    if file.kind == "eeg":
        length, starts = WINDOW_SAMPLES, [window_start(offset) for offset in file.offsets]
    else:
        length, starts = WINDOW_FRAMES, [int(offset // FRAME_SECONDS) for offset in file.offsets]
    windows = [values[:, start : start + length].T for start in starts]
    silent = [number for number, window in enumerate(windows) if window.size and is_silent(window, file.kind)]
    if not silent:
        return []
    what = f"the window labelled at {file.offsets[silent[0]]:g} s holds nothing but NaN"
    what += f" ({len(silent)} such windows)" if len(silent) > 1 else ""
    hint = (
        f"Remove the rows of {file.kind}_id {file.identifier} whose window has no signal; it teaches nothing."
    )
    kind = DefectKind.WINDOW_OF_NAN
    if file.kind == "eeg":
        learnt = file.split == "train"
        kind = DefectKind.LABELLED_WINDOW_OF_NAN if learnt else DefectKind.TEST_WINDOW_OF_NAN
        hint = hint if learnt else SILENT_HINT
    return [file.defect(kind, what, hint, row=starts[silent[0]])]


def is_silent(window: NDArray[np.floating], kind: Kind) -> bool:
    """Whether a window holds nothing but NaN; of an EEG, on the scalp: no recipe reads a heart alone.

    Parameters
    ----------
    window : (rows, columns), as the competition's files have it
    kind : what it holds
    """
    seen = window[:, :SCALP_CHANNELS] if kind == "eeg" else window
    # one column tells nearly always, and spares the others
    return bool(np.isnan(seen[:, 0]).all()) and bool(np.isnan(seen).all())
