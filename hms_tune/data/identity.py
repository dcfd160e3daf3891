"""Which data set a study's trials run on, in a few words that any machine works out alike."""

from __future__ import annotations

from dataclasses import dataclass

_SHOWN = 12


@dataclass(frozen=True, slots=True)
class DataIdentity:
    """What tells one data set from another.

    Attributes
    ----------
    digest : of the tables and of every stored value; equal data have equal digests on any machine
    folds : digest of which rows lie in which fold, by every split that the study may draw
    eegs, rows, patients : how many the train half has

    All but ``digest`` are None where nobody wrote them down, which agrees with anything.
    """

    digest: str
    folds: str | None = None
    eegs: int | None = None
    rows: int | None = None
    patients: int | None = None

    def differences(self, known: DataIdentity) -> list[str]:
        """What is other here than ``known`` says, the plainest first; empty if both are one data set."""
        told = []
        for name, here, there in (
            ("EEGs", self.eegs, known.eegs),
            ("rows", self.rows, known.rows),
            ("patients", self.patients, known.patients),
        ):
            if None not in (here, there) and here != there:
                told.append(f"{here:,} {name} instead of {there:,}")
        if self.digest != known.digest:
            told.append(f"data digest {self.digest[:_SHOWN]} instead of {known.digest[:_SHOWN]}")
        elif self.folds is not None and known.folds is not None and self.folds != known.folds:
            told.append(f"folds {self.folds[:_SHOWN]} instead of {known.folds[:_SHOWN]}")
        return told
