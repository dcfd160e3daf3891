"""What is wrong with a competition folder, one value for each finding."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal

from hms_tune.errors import DataError

Severity = Literal["error", "warning"]


class DefectKind(StrEnum):
    """Every defect there is. The names are stable: programs may ask for them."""

    # the folder
    FOLDER_MISSING = "folder-missing"
    FOLDER_UNREADABLE = "folder-unreadable"
    TABLE_MISSING = "table-missing"
    FILE_MISSING = "file-missing"
    FILE_UNEXPECTED = "file-unexpected"
    STATEMENT_INVALID = "statement-invalid"
    SPECTROGRAMS_MISSING = "spectrograms-missing"
    # any table
    TABLE_UNREADABLE = "table-unreadable"
    TABLE_EMPTY = "table-empty"
    CELL_INVALID = "cell-invalid"
    KEY_REPEATED = "key-repeated"
    # train.csv
    OFFSET_NEGATIVE = "offset-negative"
    VOTE_NEGATIVE = "vote-negative"
    VOTES_ZERO = "votes-zero"
    VOTES_SHARES = "votes-shares"
    VOTES_UNWEIGHTED = "votes-unweighted"
    EEG_OF_SEVERAL_PATIENTS = "eeg-of-several-patients"
    SPECTROGRAM_OF_SEVERAL_PATIENTS = "spectrogram-of-several-patients"
    CONSENSUS_DISAGREES = "consensus-disagrees"
    PATIENTS_TOO_FEW = "patients-too-few"
    PATIENTS_FEW = "patients-few"
    # train.csv and test.csv together
    EEG_IN_BOTH_SPLITS = "eeg-in-both-splits"
    PATIENT_IN_BOTH_SPLITS = "patient-in-both-splits"
    # sample_submission.csv
    SUBMISSION_UNREADABLE = "submission-unreadable"
    SUBMISSION_COLUMNS = "submission-columns"
    SUBMISSION_IDS = "submission-ids"
    SUBMISSION_VALUES = "submission-values"
    # the columns of any file
    COLUMN_MISSING = "column-missing"
    COLUMN_REPEATED = "column-repeated"
    COLUMN_TYPE = "column-type"
    COLUMN_EXTRA = "column-extra"
    COLUMN_ORDER = "column-order"
    COLUMN_PRECISION = "column-precision"
    COLUMN_SYNONYM = "column-synonym"
    # a signal file as a whole
    FILE_EMPTY = "file-empty"
    FILE_UNREADABLE = "file-unreadable"
    ROWS_MISSING = "rows-missing"
    EEG_TOO_SHORT = "eeg-too-short"
    WINDOW_BEYOND_EEG = "window-beyond-eeg"
    WINDOW_BEYOND_SPECTROGRAM = "window-beyond-spectrogram"
    WINDOW_CUT = "window-cut"
    TEST_LENGTH = "test-length"
    SAMPLING_RATE = "sampling-rate"
    # what a signal file holds
    VALUE_INFINITE = "value-infinite"
    POWER_NEGATIVE = "power-negative"
    TIME_STEP = "time-step"
    LABELLED_WINDOW_OF_NAN = "labelled-window-of-nan"
    TEST_WINDOW_OF_NAN = "test-window-of-nan"
    WINDOW_OF_NAN = "window-of-nan"
    CHANNEL_ABSENT = "channel-absent"
    CHANNEL_NAN = "channel-nan"
    CHANNEL_FLAT = "channel-flat"
    CHANNEL_MILLIVOLT = "channel-millivolt"


WARNINGS = frozenset(
    {
        DefectKind.FILE_UNEXPECTED,
        DefectKind.SPECTROGRAMS_MISSING,
        DefectKind.SPECTROGRAM_OF_SEVERAL_PATIENTS,
        DefectKind.CONSENSUS_DISAGREES,
        DefectKind.VOTES_SHARES,
        DefectKind.PATIENTS_FEW,
        DefectKind.EEG_IN_BOTH_SPLITS,
        DefectKind.PATIENT_IN_BOTH_SPLITS,
        DefectKind.SUBMISSION_UNREADABLE,
        DefectKind.SUBMISSION_COLUMNS,
        DefectKind.SUBMISSION_IDS,
        DefectKind.SUBMISSION_VALUES,
        DefectKind.COLUMN_EXTRA,
        DefectKind.COLUMN_ORDER,
        DefectKind.COLUMN_PRECISION,
        DefectKind.COLUMN_SYNONYM,
        DefectKind.CHANNEL_ABSENT,
        DefectKind.SAMPLING_RATE,
        DefectKind.WINDOW_CUT,
        DefectKind.TEST_LENGTH,
        DefectKind.TIME_STEP,
        DefectKind.WINDOW_OF_NAN,
        DefectKind.CHANNEL_NAN,
        DefectKind.CHANNEL_FLAT,
        DefectKind.CHANNEL_MILLIVOLT,
    }
)
"""Kinds that a person should know of and that stop nothing; every other kind is an error."""


@dataclass(frozen=True, slots=True)
class Defect:
    """One thing that is wrong with a competition folder.

    Parameters
    ----------
    kind : what sort of defect
    file : path of the file or folder, as the user can open it
    column : column of that file, when it is about one
    what : what is wrong, one clause with figures
    hint : what to do about it
    row : the first row it is about: in a table its line, the header being line 1; in a signal file its row,
        the first being row 0
    """

    kind: DefectKind
    file: str
    column: str | None
    what: str
    hint: str
    row: int | None = None

    @property
    def severity(self) -> Severity:
        """``error`` keeps the folder from being used, ``warning`` does not."""
        return "warning" if self.kind in WARNINGS else "error"

    @property
    def where(self) -> str:
        """The file, and the column where one is to blame."""
        return self.file if self.column is None else f"{self.file}, column {self.column}"

    def __str__(self) -> str:
        return str(DataError(self.what, where=self.where, hint=self.hint))

    def as_record(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "kind": self.kind.value,
            "severity": self.severity,
            "file": self.file,
            "row": self.row,
            "column": self.column,
            "what": self.what,
            "hint": self.hint,
        }


def errors(defects: Iterable[Defect]) -> list[Defect]:
    """The defects that keep a folder from being used."""
    return [defect for defect in defects if defect.severity == "error"]


def refuse(defects: Sequence[Defect]) -> None:
    """Raise the first error, saying how many stand behind it. Warnings pass.

    Raises
    ------
    DataError
        If there is an error among the defects.
    """
    found = errors(defects)
    if not found:
        return
    first, more = found[0], len(found) - 1
    hint = first.hint
    if more:
        hint += f" ({more} more: `hms-tune data check` lists every defect)"
    raise DataError(first.what, where=first.where, hint=hint)
