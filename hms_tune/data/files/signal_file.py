"""One signal file of a competition folder, and what its labels ask of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hms_tune.data.files.defects import Defect, DefectKind
from hms_tune.data.schema import EEG_COLUMNS, SFREQ, SPECTROGRAM_COLUMNS, Kind, Split


@dataclass(frozen=True, slots=True)
class SignalFile:
    """One parquet file that a table names.

    Parameters
    ----------
    kind : ``eeg`` or ``spectrogram``
    split : which half of the competition
    identifier : ``eeg_id`` or ``spectrogram_id``
    path : where it lies
    offsets : starts of the labelled windows in it, seconds, ascending
    sfreq : at which an EEG file is sampled, Hz
    """

    kind: Kind
    split: Split
    identifier: int
    path: Path
    offsets: tuple[float, ...]
    sfreq: int = SFREQ

    @property
    def columns(self) -> tuple[str, ...]:
        """The signal columns of this kind of file, in order."""
        return EEG_COLUMNS if self.kind == "eeg" else SPECTROGRAM_COLUMNS

    def defect(
        self, kind: DefectKind, what: str, hint: str, column: str | None = None, row: int | None = None
    ) -> Defect:
        """A defect of this file."""
        return Defect(kind, str(self.path), column, what, hint, row)
