"""What is wrong with a competition folder, one value for each finding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hms_tune.errors import DataError


@dataclass(frozen=True, slots=True)
class Defect:
    """One thing that keeps a competition folder from being used.

    Parameters
    ----------
    file : path of the file or folder, as the user can open it
    column : column of that file, when it is about one
    what : what is wrong, one clause with figures
    mend : what to do about it
    """

    file: str
    column: str | None
    what: str
    mend: str

    @property
    def where(self) -> str:
        """The file, and the column where one is to blame."""
        return self.file if self.column is None else f"{self.file}, column {self.column}"

    def __str__(self) -> str:
        return str(DataError(self.what, where=self.where, mend=self.mend))


def refuse(defects: Sequence[Defect]) -> None:
    """Raise the first defect, saying how many stand behind it.

    Raises
    ------
    DataError
        If there is a defect.
    """
    if not defects:
        return
    first, more = defects[0], len(defects) - 1
    mend = first.mend
    if more:
        mend += f" ({more} more: `hms-tune data check` lists every defect)"
    raise DataError(first.what, where=first.where, mend=mend)
