"""One half of a competition folder, read window by window from its files: for what is predicted once.

Nothing of the other half is looked at, nothing is written, and what is kept in memory does not grow with the
folder. Training, which reads each window many times, has the store.
"""

from __future__ import annotations

from collections.abc import Collection, Generator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hms_tune.data.files.competition import Competition
from hms_tune.data.files.decoding import read_signal
from hms_tune.data.files.defects import refuse
from hms_tune.data.files.signal_file import SignalFile
from hms_tune.data.files.signal_files import list_signal_files, missing_files
from hms_tune.data.files.silence import SILENT_HINT, is_silent
from hms_tune.data.files.threads import ordered
from hms_tune.data.labels import Labels, make_labels, unlabelled
from hms_tune.data.schema import FRAME_SECONDS, WINDOW_FRAMES, WINDOW_SAMPLES, Kind, Split, window_start
from hms_tune.errors import DataError
from hms_tune.machine.cores import available_cores

Windows = Mapping[Kind, NDArray[np.float16]]
"""The signals of one row in the form of the store: ``eeg`` (10000, 20), ``spectrogram`` (300, 400)."""

_DECODERS = 4
"""Files decoded at once, at most: each takes up to seven times its size, and a recording may last an hour."""


@dataclass(frozen=True, slots=True)
class Half:
    """The rows of one half, one for each EEG, and the files that hold their windows.

    Parameters
    ----------
    labels : the rows, in the order in which they are read
    files : of each kind that is read, the file of each row
    """

    labels: Labels
    files: Mapping[Kind, Sequence[SignalFile]]

    @classmethod
    def open(cls, competition: Competition, split: Split, kinds: Collection[Kind]) -> Half:
        """Read the table of a half, and find the files of the kinds that are wanted.

        Raises
        ------
        DataError
            At a defect of the table, or if a file is missing.
        """
        table = competition.table(split)
        listed = [file for file in list_signal_files(competition, split, table) if file.kind in kinds]
        refuse(missing_files(competition, listed))
        labels = unlabelled(table) if split == "test" else make_labels(table, rows="eeg", min_votes=1)
        found = {(file.kind, file.identifier): file for file in listed}
        identifiers = {"eeg": labels.eeg_id, "spectrogram": labels.spectrogram_id}
        return cls(labels, {kind: [found[kind, id_] for id_ in identifiers[kind].tolist()] for kind in kinds})

    def __len__(self) -> int:
        return len(self.labels)

    def windows(self, *, ahead: int) -> Generator[Windows]:
        """The windows of every row, in order, decoded by a few threads.

        Parameters
        ----------
        ahead : rows that are decoded before they are asked for, at most

        Raises
        ------
        DataError
            When the turn comes to a row whose file has a defect.
        """
        yield from ordered(
            self._of_row, range(len(self)), jobs=min(_DECODERS, available_cores()), ahead=ahead
        )

    def _of_row(self, row: int) -> Windows:
        return {kind: self._window(kind, row) for kind in self.files}

    def _window(self, kind: Kind, row: int) -> NDArray[np.float16]:
        """A copy, so that the rest of its recording can go."""
        signal, defects = read_signal(self.files[kind][row])
        refuse(defects)
        values = signal.values
        if kind == "eeg":
            start = window_start(float(self.labels.eeg_offset_seconds[row]))
            start = min(start, len(values) - WINDOW_SAMPLES)
            window = values[start : start + WINDOW_SAMPLES].copy()
            if is_silent(window, kind):
                what = "the window holds nothing but NaN on the scalp"
                raise DataError(what, where=self.files[kind][row].path, hint=SILENT_HINT)
            return window
        start = int(self.labels.spectrogram_offset_seconds[row] // FRAME_SECONDS)
        there = values[start : start + WINDOW_FRAMES]
        window = np.full((WINDOW_FRAMES, values.shape[1]), np.nan, dtype=np.float16)
        window[: len(there)] = there
        return window
