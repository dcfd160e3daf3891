"""The product's rows of studies: what people allow a study, and since when it runs."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from sqlalchemy import Connection, Row, Select, delete, func, select

from hms_tune.database.tables import now, studies

RequestedState = Literal["running", "paused", "stopped"]
"""What people request of a study."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyRow:
    """A study as the fleet knows it; with the defaults, one that no worker has joined.

    ``state`` is what people request of it; a budget of None has no limit. ``age_s`` is the time from its
    first claim until ``read_at``, s; None before.
    """

    study_id: int
    state: RequestedState = "running"
    budget_trials: int | None = None
    budget_hours: float | None = None
    budget_gpu_hours: float | None = None
    started_at: datetime | None = None
    read_at: datetime | None = None
    age_s: float | None = None

    @property
    def is_joined(self) -> bool:
        """Whether a worker has joined the study, so that its row was read."""
        return self.read_at is not None


def study_row(connection: Connection, study_id: int) -> StudyRow | None:
    """A study's row; None if no worker ever joined it."""
    row = connection.execute(_rows().where(studies.c.study_id == study_id)).one_or_none()
    return None if row is None else _read(row)


def study_rows(connection: Connection) -> dict[int, StudyRow]:
    """The rows of all studies, by Optuna's ids."""
    return {row.study_id: _read(row) for row in connection.execute(_rows())}


def delete_study_rows(connection: Connection, study_id: int) -> None:
    """Delete what the fleet knows of a study; Optuna's own tables keep theirs."""
    connection.execute(delete(studies).where(studies.c.study_id == study_id))


def _rows() -> Select[tuple[object, ...]]:
    age_s = func.extract("epoch", now() - studies.c.started_at)
    return select(studies, now().label("read_at"), age_s.label("age_s"))


def _read(row: Row[tuple[object, ...]]) -> StudyRow:
    return StudyRow(
        study_id=row.study_id,
        state=row.state,
        budget_trials=row.budget_trials,
        budget_hours=row.budget_hours,
        budget_gpu_hours=row.budget_gpu_hours,
        started_at=row.started_at,
        read_at=row.read_at,
        age_s=None if row.age_s is None else float(row.age_s),
    )
