"""What each attempt told, and the out-of-fold predictions of those that were the best when they ended."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Text, case, cast, func, select, update
from sqlalchemy.dialects.postgresql import insert

from hms_tune.database.tables import attempt_records, now, out_of_fold


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordRow:
    """What an attempt told; None where it has not. Fields are named as the columns.

    ``config`` and ``folds`` are JSON, as it is or as text; ``fold_count`` and ``epochs_run`` are counted in
    the folds.
    """

    number: int
    config: dict[str, Any] | str | None = None
    folds: list[Any] | str | None = None
    fold_count: int | None = None
    epochs_run: int | None = None
    reason: str | None = None
    traceback: str | None = None
    device: str | None = None
    device_name: str | None = None
    gpus: float = 0.0
    peak_memory: int | None = None
    data_digest: str | None = None
    version: str | None = None
    run_url: str | None = None


@dataclass(frozen=True, slots=True)
class RecordsEnded:
    """How many attempts have told how they ended, and when the last did: it changes with each that does."""

    number: int
    last_written_at: datetime | None


# What has no configuration or no folds may have a null of JSON's there.
_config = case(
    (func.jsonb_typeof(attempt_records.c.config) == "object", attempt_records.c.config),
)
_folds = case((func.jsonb_typeof(attempt_records.c.folds) == "array", attempt_records.c.folds))
_fold = func.jsonb_array_elements(_folds).table_valued("value", joins_implicitly=True)
_epochs = func.jsonb_extract_path(_fold.c.value, "curves", "epoch")
_READ: dict[str, ColumnElement[Any]] = {
    "config": cast(_config, Text).label("config"),
    "folds": cast(_folds, Text).label("folds"),
    "fold_count": func.jsonb_array_length(_folds).label("fold_count"),
    "epochs_run": select(
        func.sum(case((func.jsonb_typeof(_epochs) == "array", func.jsonb_array_length(_epochs))))
    )
    .scalar_subquery()
    .label("epochs_run"),
}
_COLUMNS = tuple(
    _READ[field.name] if field.name in _READ else attempt_records.c[field.name] for field in fields(RecordRow)
)
_KEY = ("study_id", "number")


def records_of_study(
    connection: Connection, study_id: int, *, number: int | None = None
) -> dict[int, RecordRow]:
    """What the attempts of a study told, or the one with that number, by their numbers."""
    statement = select(*_COLUMNS).where(attempt_records.c.study_id == study_id)
    if number is not None:
        statement = statement.where(attempt_records.c.number == number)
    return {row.number: RecordRow(**row._mapping) for row in connection.execute(statement)}


def write_record(
    connection: Connection, study_id: int, number: int, values: Mapping[str, Any], *, close: bool = False
) -> None:
    """Write columns of an attempt's record, which is made if there is none.

    Parameters
    ----------
    values : by the names of columns; those that are not named stay as they are
    close : whether the attempt has told how it ended
    """
    if close:
        values = {**values, "closed_at": now()}
    row = {"study_id": study_id, "number": number, **values}
    statement = insert(attempt_records).values(row)
    connection.execute(
        statement.on_conflict_do_update(index_elements=_KEY, set_={**values, "written_at": now()})
    )


def records_ended(connection: Connection, study_id: int) -> RecordsEnded:
    """How many attempts of a study have told how they ended, and when the last did."""
    number, last = connection.execute(
        select(func.count(), func.max(attempt_records.c.written_at)).where(
            attempt_records.c.study_id == study_id, attempt_records.c.closed_at.is_not(None)
        )
    ).one()
    return RecordsEnded(number, last)


def notes_by_number(connection: Connection, study_id: int, *, first: int) -> dict[int, str]:
    """The notes of attempts, from the number ``first`` on."""
    statement = select(attempt_records.c.number, attempt_records.c.note).where(
        attempt_records.c.study_id == study_id,
        attempt_records.c.number >= first,
        attempt_records.c.note.is_not(None),
    )
    return {row.number: row.note for row in connection.execute(statement)}


def write_predictions(connection: Connection, study_id: int, number: int, content: bytes) -> None:
    """Keep an attempt's out-of-fold predictions, in place of those it had."""
    statement = insert(out_of_fold).values(study_id=study_id, number=number, content=content)
    connection.execute(
        statement.on_conflict_do_update(index_elements=_KEY, set_={"content": content, "written_at": now()})
    )


def predictions(connection: Connection, study_id: int, number: int) -> bytes | None:
    """An attempt's out-of-fold predictions; None of one that was not the best when it ended."""
    statement = select(out_of_fold.c.content).where(
        out_of_fold.c.study_id == study_id, out_of_fold.c.number == number
    )
    return connection.execute(statement).scalar_one_or_none()


def unpublished_predictions(connection: Connection, study_id: int) -> frozenset[int]:
    """Numbers of the attempts whose predictions the dashboard does not show yet."""
    statement = select(out_of_fold.c.number).where(
        out_of_fold.c.study_id == study_id, out_of_fold.c.published_at.is_(None)
    )
    return frozenset(connection.execute(statement).scalars())


def mark_published(connection: Connection, study_id: int, number: int, note: str) -> None:
    """Write down that the dashboard shows an attempt's predictions, and the note that says so."""
    attempt = {"study_id": study_id, "number": number}
    connection.execute(update(attempt_records).values(note=note).filter_by(**attempt))
    connection.execute(update(out_of_fold).values(published_at=now()).filter_by(**attempt))
