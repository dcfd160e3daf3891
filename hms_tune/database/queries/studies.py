"""The product's rows of studies: what people allow a study, and since when it runs."""

from __future__ import annotations

from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import Connection, delete, exists, or_, select

from hms_tune.database.tables import now, studies
from hms_tune.search.optuna_private import models
from hms_tune.search.study import STUDY_FILE

STUDIES: Any = models.StudyModel.__table__
ATTRIBUTES: Any = models.StudyUserAttributeModel.__table__

RequestedState = Literal["running", "paused", "stopped"]
"""What people request of a study."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyRow:
    """A study as the fleet knows it; with the defaults, one that no worker has joined.

    ``state`` is what people request of it; a budget of None has no limit. ``started_at`` is
    the time of its first claim.
    """

    study_id: int
    state: RequestedState = "running"
    budget_trials: int | None = None
    budget_hours: float | None = None
    budget_gpu_hours: float | None = None
    budget_patience: int | None = None
    started_at: datetime | None = None
    read_at: datetime | None = None

    @property
    def is_joined(self) -> bool:
        """Whether a worker has joined the study, so that its row was read."""
        return self.read_at is not None


_COLUMNS = [studies.c[field.name] for field in fields(StudyRow) if field.name != "read_at"]


def study_row(connection: Connection, study_id: int) -> StudyRow | None:
    """A study's row; None if no worker ever joined it."""
    found = select(*_COLUMNS, now().label("read_at")).where(studies.c.study_id == study_id)
    row = connection.execute(found).one_or_none()
    return None if row is None else StudyRow(**row._mapping)


def study_names(connection: Connection) -> list[tuple[int, str]]:
    """Optuna's id and the name of every study in the storage, by name, those of other programs too."""
    rows = connection.execute(select(STUDIES.c.study_id, STUDIES.c.study_name).order_by("study_name"))
    return [(row.study_id, row.study_name) for row in rows]


def is_ours(connection: Connection, study_id: int) -> bool:
    """Whether hms-tune made a study: a worker has joined it, or has made it and not joined yet."""
    joined = exists().where(studies.c.study_id == study_id)
    made = exists().where(ATTRIBUTES.c.study_id == study_id, ATTRIBUTES.c.key == STUDY_FILE)
    return bool(connection.execute(select(or_(joined, made))).scalar_one())


def delete_study_rows(connection: Connection, study_id: int) -> None:
    """Delete what the fleet knows of a study; Optuna's own tables keep theirs."""
    connection.execute(delete(studies).where(studies.c.study_id == study_id))
