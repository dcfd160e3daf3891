"""One window of one recording, with all that is known of it, straight from the competition folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hms_tune.data.files.competition import Competition
from hms_tune.data.files.decoding import check_footer, decode
from hms_tune.data.files.defects import errors, refuse
from hms_tune.data.files.signal_file import SignalFile
from hms_tune.data.schema import (
    CLASSES,
    FRAME_SECONDS,
    SFREQ,
    VOTE_COLUMNS,
    WINDOW_FRAMES,
    WINDOW_SAMPLES,
    WINDOW_SECONDS,
    Split,
)
from hms_tune.errors import DataError

LABELLED_SECONDS = (20.0, 30.0)
"""The part of a window that experts labelled, in seconds from its start."""


@dataclass(frozen=True, slots=True)
class Example:
    """A window to look at.

    Parameters
    ----------
    eeg_id, patient_id, split : which recording
    offset_seconds : where the window starts in it
    recording_seconds : how long the recording is
    eeg : float32 (20, n_times), µV, the whole recording, so that filters have settled inside the window
    spectrogram : float32 (400, 300), µV²/Hz, the file's ten minutes around the window, NaN where there is
        none; None without a file
    votes : float64 (6,) of the experts; None for a window that nobody labelled
    labelled_offsets : starts of all labelled windows of the recording, seconds
    """

    eeg_id: int
    patient_id: int
    split: Split
    offset_seconds: float
    recording_seconds: float
    eeg: NDArray[np.float32]
    spectrogram: NDArray[np.float32] | None
    votes: NDArray[np.float64] | None
    labelled_offsets: tuple[float, ...]

    @property
    def consensus(self) -> str | None:
        """The class with the most votes, None without votes."""
        return None if self.votes is None else CLASSES[int(self.votes.argmax())]

    @property
    def first_sample(self) -> int:
        """Where the window starts in ``eeg``."""
        return round(self.offset_seconds * SFREQ)


def load_example(root: Path, eeg_id: int, *, offset: float | None = None) -> Example:
    """Read a window of a recording.

    Parameters
    ----------
    root : competition folder
    eeg_id : a recording of either half
    offset : start of the window, seconds; the middle one of the labelled windows when None, or the start

    Raises
    ------
    DataError
        If the recording is not there, is damaged, or does not reach that far.
    """
    competition = Competition.open(Path(root))
    tables: dict[Split, pd.DataFrame] = {split: competition.table(split) for split in competition.splits}
    for split, table in tables.items():
        rows = table[table["eeg_id"] == eeg_id]
        if not rows.empty:
            return load_rows(competition, split, rows, offset=offset)
    there = tables[competition.splits[0]]["eeg_id"]
    raise DataError(
        f"no table names eeg_id {eeg_id}",
        where=competition.root,
        hint=f"{competition.splits[0]}.csv begins with {', '.join(map(str, there.unique()[:3]))}.",
    )


def load_rows(
    competition: Competition, split: Split, rows: pd.DataFrame, *, offset: float | None = None
) -> Example:
    """The same for one whose rows of the table are at hand."""
    row, start = _choose(rows, offset)
    eeg_id = int(rows["eeg_id"].iloc[0])
    sfreq = competition.statement.sampling_rate
    file = SignalFile("eeg", split, eeg_id, competition.path(split, "eeg", eeg_id), (start,), sfreq)
    eeg = _read(file)
    seconds = eeg.shape[1] / SFREQ
    if start < 0 or round(start * SFREQ) + WINDOW_SAMPLES > eeg.shape[1]:
        raise DataError(
            f"the {WINDOW_SECONDS} s from {start:g} s do not lie in the recording of {seconds:g} s",
            where=file.path,
            hint=f"Name an --offset from 0 to {seconds - WINDOW_SECONDS:g}.",
        )
    labelled = "eeg_label_offset_seconds" in rows
    votes = row[list(VOTE_COLUMNS)].to_numpy(np.float64) if labelled and row is not None else None
    return Example(
        eeg_id=eeg_id,
        patient_id=int(rows["patient_id"].iloc[0]),
        split=split,
        offset_seconds=start,
        recording_seconds=seconds,
        eeg=eeg,
        spectrogram=_spectrogram(competition, split, rows, row, start),
        votes=votes,
        labelled_offsets=tuple(rows["eeg_label_offset_seconds"].tolist()) if labelled else (),
    )


def _choose(rows: pd.DataFrame, offset: float | None) -> tuple[pd.Series | None, float]:
    """The row of the table that labels the window, and where the window starts."""
    if "eeg_label_offset_seconds" not in rows:
        return None, 0.0 if offset is None else float(offset)
    rows = rows.sort_values("eeg_label_offset_seconds")
    if offset is None:
        row = rows.iloc[len(rows) // 2]
        return row, float(row["eeg_label_offset_seconds"])
    exact = rows[rows["eeg_label_offset_seconds"] == offset]
    return (None if exact.empty else exact.iloc[0]), float(offset)


def _spectrogram(
    competition: Competition, split: Split, rows: pd.DataFrame, row: pd.Series | None, start: float
) -> NDArray[np.float32] | None:
    nearest = rows.iloc[0] if row is None else row
    identifier = int(nearest["spectrogram_id"])
    path = competition.path(split, "spectrogram", identifier)
    if not path.is_file():
        return None
    offset = 0.0
    if "spectrogram_label_offset_seconds" in nearest:  # both clocks run alike
        offset = float(nearest["spectrogram_label_offset_seconds"])
        offset += start - float(nearest["eeg_label_offset_seconds"])
    power = _read(SignalFile("spectrogram", split, identifier, path, (0.0,)))
    window = np.full((len(power), WINDOW_FRAMES), np.nan, dtype=np.float32)
    first = int(offset // FRAME_SECONDS)
    begin, end = max(first, 0), min(first + WINDOW_FRAMES, power.shape[1])
    if begin < end:
        window[:, begin - first : end - first] = power[:, begin:end]
    return window


def _read(file: SignalFile) -> NDArray[np.float32]:
    _, defects = check_footer(file)
    refuse([defect for defect in errors(defects) if defect.kind.name != "WINDOW_BEYOND_EEG"])
    values, defects = decode(file)
    refuse(defects)
    return values
