"""What is odd about a signal that can be read: gaps, dead or drifting channels, frames out of step.

Findings here are warnings. Recordings from intensive care hold all of these, and models must bear them; but
whoever looks at a bad result wants to know of them.
"""

from __future__ import annotations

import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from hms_tune.data.files.defects import Defect, DefectKind
from hms_tune.data.files.signal_file import SignalFile
from hms_tune.data.files.silence import SCALP_CHANNELS, windows_of_nan
from hms_tune.data.schema import EEG_COLUMNS, FRAME_SECONDS, TIME_COLUMN

NAN_SHARE = 0.5
"""A channel with at least this share of NaN is named."""

FLAT_MICROVOLTS = 0.5
"""A scalp channel whose 5th and 95th percentile lie closer than this is flat."""

MILLIVOLT_MICROVOLTS = 2_000.0
"""A scalp channel whose 5th and 95th percentile lie further apart than this is not brain activity."""

_EVERY = 4  # percentiles of every fourth sample are those of all


def quality_defects(file: SignalFile, values: NDArray[np.float32]) -> list[Defect]:
    """Every oddity of a decoded file.

    Parameters
    ----------
    file : the file
    values : float32 (n_columns, n_rows) of :func:`hms_tune.data.files.decoding.decode`
    """
    if file.kind == "eeg":
        # of a training file, reading it has told; one for the test keeps nobody from reading the folder
        silence = [] if file.split == "train" else windows_of_nan(file, values)
        return silence + _channel_defects(file, values)
    return _time_defects(file) + windows_of_nan(file, values)


def nan_counts(values: NDArray[np.float32]) -> NDArray[np.int64]:
    """NaN in each column, int64 (n_columns,)."""
    return np.asarray(np.isnan(values).sum(axis=1), dtype=np.int64)


def _channel_defects(file: SignalFile, values: NDArray[np.float32]) -> list[Defect]:
    share = nan_counts(values) / values.shape[1]
    span = _span(values[:SCALP_CHANNELS, ::_EVERY])
    found = []
    if (gone := np.flatnonzero(share >= NAN_SHARE)).size:
        what = f"{share[gone[0]]:.0%} of the channel is NaN"
        hint = "NaN is read as 0; a channel without signal teaches nothing."
        found.append(_of_channels(file, DefectKind.CHANNEL_NAN, gone, what, hint))
    if (flat := np.flatnonzero(span < FLAT_MICROVOLTS)).size:
        what = f"the channel is flat: it spans {span[flat[0]]:.2g} µV"
        hint = "An electrode was off, or the file is in volts; it must be in µV."
        found.append(_of_channels(file, DefectKind.CHANNEL_FLAT, flat, what, hint))
    if (huge := np.flatnonzero(span > MILLIVOLT_MICROVOLTS)).size:
        what = f"the channel spans {span[huge[0]] / 1000:.1f} mV"
        hint = "An electrode was loose, or the file is not in µV; recipes clip it."
        found.append(_of_channels(file, DefectKind.CHANNEL_MILLIVOLT, huge, what, hint))
    return found


def _span(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Distance of the 5th from the 95th percentile of each channel, NaN aside; NaN where nothing is left."""
    ordered = np.sort(values, axis=1)  # NaN goes last
    last = np.count_nonzero(~np.isnan(values), axis=1) - 1
    channels = np.arange(len(values))
    low, high = (ordered[channels, np.rint(part * np.maximum(last, 0)).astype(int)] for part in (0.05, 0.95))
    return np.asarray(high - low, dtype=np.float32)


def _of_channels(
    file: SignalFile, kind: DefectKind, channels: NDArray[np.int64], what: str, hint: str
) -> Defect:
    names = [EEG_COLUMNS[channel] for channel in channels]
    if len(names) > 1:
        what += f" (and {len(names) - 1} more: {', '.join(names[1:])})"
    return file.defect(kind, what, hint, names[0])


def _time_defects(file: SignalFile) -> list[Defect]:
    """Frames are addressed by number, so their times must be 1, 3, 5, … s."""
    with pa.OSFile(os.fsencode(file.path)) as stream:  # as text, pyarrow takes UTF-8 alone
        column = pq.read_table(stream, columns=[TIME_COLUMN], use_threads=False)[TIME_COLUMN]
    hint = f"Frame n must stand at {FRAME_SECONDS}·n + 1 s; restore the file, or the labels point elsewhere."
    if not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
        what = f"the type is {column.type}, not a number of seconds"
        return [file.defect(DefectKind.TIME_STEP, what, hint, TIME_COLUMN)]
    times = column.to_numpy().astype(np.float64)
    wanted = FRAME_SECONDS * np.arange(len(times)) + FRAME_SECONDS / 2
    wrong = ~(times == wanted)
    if not wrong.any():
        return []
    row, count = int(wrong.argmax()), int(wrong.sum())
    what = f"row {row} is at {times[row]:g} s, not {wanted[row]:g} s"
    what += f" ({count} such rows)" if count > 1 else ""
    return [file.defect(DefectKind.TIME_STEP, what, hint, TIME_COLUMN, row)]
