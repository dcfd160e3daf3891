"""Studies that confirm the leading trials of others: which, of whom, and how the candidates stand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, select, update

from hms_tune.database.queries.totals import trials_by_state
from hms_tune.database.tables import confirmations, studies
from hms_tune.export.confirmation.race import Candidate, Ranking


@dataclass(frozen=True, slots=True)
class Confirmation:
    """A study that confirms another.

    Attributes
    ----------
    study_id, study : the confirming study
    confirms : name of the study that was searched
    candidates : the parameters of each candidate by its trial's number, the best in the search first
    ranking : how they stand, as it was stored last
    """

    study_id: int
    study: str
    confirms: str
    candidates: dict[int, dict[str, Any]]
    ranking: list[dict[str, Any]] | None


@dataclass(frozen=True, slots=True)
class ConfirmationProgress:
    """How far a confirmation is.

    ``runs``: of how many there are; ``left``: how many have not ended; ``ranking``: None before the first
    complete run.
    """

    study: str
    runs: int
    left: int
    ranking: Ranking | None

    @property
    def is_over(self) -> bool:
        """Whether every run has ended."""
        return not self.left

    @property
    def winner(self) -> Candidate | None:
        """The best candidate once all is over."""
        return self.ranking.winner if self.is_over and self.ranking is not None else None


_ROWS = select(confirmations, studies.c.name).join_from(
    confirmations, studies, studies.c.study_id == confirmations.c.study_id
)


def confirmation_of(connection: Connection, study: str) -> Confirmation | None:
    """The confirmation of a study; None: nobody has asked for one."""
    return _read(connection.execute(_ROWS.where(confirmations.c.confirms == study)).one_or_none())


def as_confirmation(connection: Connection, study_id: int) -> Confirmation | None:
    """What a study confirms; None: it is a search."""
    return _read(connection.execute(_ROWS.where(confirmations.c.study_id == study_id)).one_or_none())


def confirmation_progress(connection: Connection, study: str) -> ConfirmationProgress | None:
    """How far the confirmation of a study is; None: nobody has asked for one."""
    known = confirmation_of(connection, study)
    if known is None:
        return None
    trials = trials_by_state(connection, known.study_id)
    left = sum(number for state, number in trials.items() if not state.is_final)
    ranking = None if known.ranking is None else Ranking.from_json(known.ranking)
    return ConfirmationProgress(known.study, sum(trials.values()), left, ranking)


def _read(row: Row[Any] | None) -> Confirmation | None:
    if row is None:
        return None
    candidates = {each["trial"]: each["params"] for each in row.candidates}
    return Confirmation(row.study_id, row.name, row.confirms, candidates, row.ranking)


def write_ranking(connection: Connection, study_id: int, ranking: Sequence[Mapping[str, Any]]) -> bool:
    """Store how the candidates stand; returns whether it was news.

    Somebody who knew of more runs may have stored it meanwhile: that stays.
    """
    row = connection.execute(
        select(confirmations.c.ranking).where(confirmations.c.study_id == study_id).with_for_update()
    ).one_or_none()
    if row is None or _runs(row.ranking or ()) > _runs(ranking) or row.ranking == list(ranking):
        return False
    connection.execute(
        update(confirmations).where(confirmations.c.study_id == study_id).values(ranking=list(ranking))
    )
    return True


def _runs(ranking: Sequence[Mapping[str, Any]]) -> int:
    return sum(int(each["runs"]) for each in ranking)
