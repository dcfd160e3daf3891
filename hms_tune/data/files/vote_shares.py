"""Votes that were written as shares of a row, weighed by how many experts are behind it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hms_tune.data.files.defects import Defect, DefectKind
from hms_tune.data.files.statement import STATEMENT
from hms_tune.data.schema import VOTE_COLUMNS

COUNT_COLUMNS = frozenset(
    {
        *("n_votes", "num_votes", "total_votes", "vote_count", "votes"),
        *("n_raters", "raters", "n_experts", "experts", "total_evaluators"),
    }
)
"""How tables call the number of experts of a row."""

MOST_VOTES = 1000
"""Of a row; those of the competition have 28 at most."""

_SUM_TOLERANCE = 0.0301
"""Six shares of two decimals are off by so much together, at most."""

_ROUNDING = 0.1
"""A share of two decimals times twenty experts is off by so much, at most."""


@dataclass(frozen=True, slots=True)
class Weighed:
    """A table whose shares, if it had such, are votes.

    Parameters
    ----------
    cells : with votes that add up to the experts of each row
    column : that says how many experts there are, if one was used
    fractional : whether the votes are not whole: the shares are not those of so many votes
    defects : a warning that says what was done, or an error
    """

    cells: pd.DataFrame
    column: str | None = None
    fractional: bool = False
    defects: tuple[Defect, ...] = ()


def weigh_shares(path: Path, cells: pd.DataFrame, votes_per_row: int | None) -> Weighed:
    """Turn shares into votes; a table of counts stays as it is.

    Parameters
    ----------
    path : the table
    cells : its cells as they stand
    votes_per_row : what the folder states, for a table without a column of counts
    """
    votes = cells.reindex(columns=list(VOTE_COLUMNS)).apply(as_numbers)
    shares: NDArray[np.float64] = votes.to_numpy(np.float64)
    sums = shares.sum(axis=1)  # NaN where a cell is no number: no shares, and the cell is told
    if not len(cells) or (shares < 0).any() or not (np.abs(sums - 1) <= _SUM_TOLERANCE).all():
        return Weighed(cells, defects=_stated_for_nothing(path, votes_per_row))
    column = next((name for name in cells.columns if name.lower() in COUNT_COLUMNS), None)
    if column is None and votes_per_row is None:
        one_vote_each = bool((shares == np.floor(shares)).all())
        return Weighed(cells, defects=() if one_vote_each else (_unweighted(path),))
    if column is None:
        counts, by = np.full(len(cells), float(votes_per_row or 0)), f"votes_per_row of {STATEMENT}"
    else:
        counts, by = as_numbers(cells[column]).to_numpy(np.float64), f"the column {column}"
        if (wrong := _unsound(counts)).any():
            return Weighed(cells, column, defects=(_wrong_count(path, column, cells[column], wrong),))
    weighed = _weighed(shares, sums, counts)
    cells = cells.assign(**dict(zip(VOTE_COLUMNS, weighed.T, strict=True)))
    what = f"the votes are shares; each row's are weighed by {by}"
    hint = "Make sure that this is how many experts voted."
    warning = Defect(DefectKind.VOTES_SHARES, str(path), VOTE_COLUMNS[0], what, hint)
    return Weighed(cells, column, weighed.dtype != np.int64, (warning,))


def _weighed(
    shares: NDArray[np.float64], sums: NDArray[np.float64], counts: NDArray[np.float64]
) -> NDArray[np.float64] | NDArray[np.int64]:
    votes = shares * counts[:, None]
    whole = np.rint(votes)
    if (np.abs(votes - whole) <= _ROUNDING).all() and (whole.sum(axis=1) == counts).all():
        return whole.astype(np.int64)
    return shares / sums[:, None] * counts[:, None]


def as_numbers(cells: pd.Series) -> pd.Series:
    """The cells as numbers, NaN where they are none or have more than 64 bits."""
    if cells.dtype == object:  # integers of any length, which become no float
        cells = cells.map(lambda cell: np.nan if isinstance(cell, int) and abs(cell) >= 2**63 else cell)
    return pd.to_numeric(cells, errors="coerce")


def _unsound(counts: NDArray[np.float64]) -> NDArray[np.bool_]:
    with np.errstate(invalid="ignore"):
        return np.asarray(~((counts >= 1) & (counts <= MOST_VOTES) & (counts == np.floor(counts))))


def _wrong_count(path: Path, column: str, cells: pd.Series, wrong: NDArray[np.bool_]) -> Defect:
    line = int(wrong.argmax())
    what = f"line {line + 2}: {str(cells.iloc[line])[:60]!r} is no number of votes"
    what += f" ({int(wrong.sum())} such lines)" if wrong.sum() > 1 else ""
    hint = f"The votes are shares, and this says of how many: whole numbers from 1 to {MOST_VOTES}."
    return Defect(DefectKind.CELL_INVALID, str(path), column, what, hint, line + 2)


def _unweighted(path: Path) -> Defect:
    what = "the votes are shares that add up to 1, and nothing says of how many votes"
    hint = f"Add a column n_votes, or write votes_per_row: 5 (say) into {path.with_name(STATEMENT)}."
    return Defect(DefectKind.VOTES_UNWEIGHTED, str(path), VOTE_COLUMNS[0], what, hint)


def _stated_for_nothing(path: Path, votes_per_row: int | None) -> tuple[Defect, ...]:
    if votes_per_row is None:
        return ()
    what = f"{STATEMENT} states votes_per_row, and the votes are no shares that add up to 1"
    hint = "It is ignored; the votes are read as they stand."
    return (Defect(DefectKind.VOTES_SHARES, str(path), VOTE_COLUMNS[0], what, hint),)
