"""All rows of a study, Optuna's and ours, as PostgreSQL writes them in JSON; and back under new ids.

A study has other ids in another database. Names of columns are the same wherever the revision of the tables
is, so a row is read and written whole, and only its ids are changed.
"""

from __future__ import annotations

import functools
import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, DateTime, Float, Table, func, text, update
from sqlalchemy.exc import DataError, IntegrityError, InternalError

from hms_tune.database.connect import Storage
from hms_tune.database.optuna_trial import LEASE_ATTRIBUTE
from hms_tune.database.schema import VERSION_TABLE
from hms_tune.database.tables import SCHEMA, attempts, metadata, now
from hms_tune.search.optuna_private import models

Row = dict[str, Any]

_AT_ONCE = 1000
"""Rows in one statement."""

_FILE_OF_TRIAL = "artifacts:"
"""Begin of Optuna's attributes that name files of the dashboard, which stay where they are."""

_OF_STUDY = re.compile(r"study:metric_names|hms_tune:(?:note|corrected)")
_NOTE = re.compile(r"dashboard:(?:(\d+):)?note_(?:ver|str:\d+)")
"""The system attributes of a study that go along: our own, and notes, some on a trial by its id. All else
there is the dashboard's: files that stay where they are, and figures that are drawn again."""


_MAY_BE_EMPTY = frozenset({"value", "intermediate_value", "datetime_start", "datetime_complete"})


class RowsError(ValueError):
    """Rows of a file that are not those of a study."""


@dataclass(frozen=True, slots=True, eq=False)
class _Table:
    """A table with rows of a study.

    Attributes
    ----------
    name : as the file calls it
    table : as the database does
    own : the column that numbers its rows in the whole database; None: it has none
    refers : columns that name rows of other tables: the column, and which table's number is in it
    """

    name: str
    table: str
    own: str | None
    refers: Mapping[str, str]


_STUDY = {"study_id": "optuna_studies"}
_TRIAL = {"trial_id": "optuna_trials"}
_OURS = {"trial_id": "trials"}

TABLES = (
    _Table("optuna_studies", "studies", "study_id", {}),
    _Table("optuna_directions", "study_directions", "study_direction_id", _STUDY),
    _Table("optuna_study_user_attributes", "study_user_attributes", "study_user_attribute_id", _STUDY),
    _Table("optuna_trials", "trials", "trial_id", _STUDY),
    # After the trials: a note is on one of them.
    _Table("optuna_study_system_attributes", "study_system_attributes", "study_system_attribute_id", _STUDY),
    _Table("optuna_params", "trial_params", "param_id", _TRIAL),
    _Table("optuna_values", "trial_values", "trial_value_id", _TRIAL),
    _Table("optuna_reports", "trial_intermediate_values", "trial_intermediate_value_id", _TRIAL),
    _Table("optuna_system_attributes", "trial_system_attributes", "trial_system_attribute_id", _TRIAL),
    _Table("studies", f"{SCHEMA}.studies", None, _STUDY),
    _Table("trials", f"{SCHEMA}.trials", "trial_id", _STUDY | {"last_optuna_trial_id": "optuna_trials"}),
    _Table(
        "attempts",
        f"{SCHEMA}.attempts",
        "lease_id",
        _STUDY | _OURS | {"optuna_trial_id": "optuna_trials"},
    ),
    # After the attempts: one of these attributes has the attempt's lease.
    _Table("optuna_user_attributes", "trial_user_attributes", "trial_user_attribute_id", _TRIAL),
    _Table("attempt_records", f"{SCHEMA}.attempt_records", None, _STUDY),
    _Table("rungs", f"{SCHEMA}.rungs", None, _STUDY | _OURS),
    _Table("out_of_fold", f"{SCHEMA}.out_of_fold", None, _STUDY),
    _Table("data_sets", f"{SCHEMA}.data_sets", None, _STUDY),
    _Table("confirmations", f"{SCHEMA}.confirmations", None, _STUDY),
)
"""Tables of a study, each after those that it refers to. Who was at work, and messages to people, stay."""


def revision(connection: Connection) -> str:
    """Of which revision a database's tables are: ours and Optuna's."""
    ours = connection.execute(text(f"SELECT version_num FROM {SCHEMA}.{VERSION_TABLE}")).scalar_one()
    return f"{ours}, Optuna {models.SCHEMA_VERSION}"


@contextmanager
def one_moment(storage: Storage) -> Iterator[Connection]:
    """A transaction whose queries all see the database as it is now."""
    with storage.connection() as connection:
        alone = connection.execution_options(isolation_level="REPEATABLE READ")
        with alone.begin():
            yield alone


def has_study(connection: Connection, name: str) -> bool:
    """Whether the database has a study of a name, whoever made it."""
    found = text("SELECT EXISTS (SELECT FROM studies WHERE study_name = :name)")
    return bool(connection.execute(found, {"name": name}).scalar_one())


def study_rows(connection: Connection, study_id: int) -> Iterator[tuple[str, Iterator[Row]]]:
    """Every row of a study, table by table. The caller's transaction sees one moment."""
    for table in TABLES:
        yield table.name, _rows(connection, table, study_id)


def _of_study(table: _Table) -> str:
    """The condition for the rows of a study."""
    if "study_id" in table.refers or table.own == "study_id":
        return "study_id = :study"
    trials = f"{SCHEMA}.trials" if table.refers.get("trial_id") == "trials" else "trials"
    return f"trial_id IN (SELECT trial_id FROM {trials} WHERE study_id = :study)"


def _rows(connection: Connection, table: _Table, study_id: int) -> Iterator[Row]:
    order = "1" if table.own is None else f"r.{table.own}"  # which their new numbers keep
    found = connection.execution_options(stream_results=True).execute(
        text(
            f"SELECT CAST(to_jsonb(r) AS text) FROM {table.table} r"
            f" WHERE r.{_of_study(table)} ORDER BY {order}"
        ),
        {"study": study_id},
    )
    for content in found.scalars():
        yield json.loads(content)


def insert_rows(
    connection: Connection, rows_of: Callable[[str], Iterable[Row]]
) -> tuple[int, dict[str, int]]:
    """Write a study's rows under new ids; returns Optuna's id of the study, and how many rows each table got.

    The lease of an attempt that ran when the rows were read is over: the next worker finds it lost, and its
    trial goes on.

    Parameters
    ----------
    rows_of : the rows of a table of a name, read once; no more than a thousand are held at a time

    Raises
    ------
    RowsError
        If the rows do not fit the tables, or one another.
    """
    numbers: dict[str, dict[int, int]] = {}
    counts: dict[str, int] = {}
    for table in TABLES:
        numbers[table.name], counts[table.name] = {}, 0
        rows = iter(rows_of(table.name))
        while batch := list(itertools.islice(rows, _AT_ONCE)):
            try:
                _insert(connection, table, batch, numbers)
            except (DataError, IntegrityError, InternalError) as error:
                raise RowsError(f"{table.name}: {str(error.orig).splitlines()[0]}") from error
            except (LookupError, TypeError, ValueError) as error:
                raise RowsError(f"{table.name}: {type(error).__name__} {error}"[:200]) from error
            counts[table.name] += len(batch)
    if len(numbers["optuna_studies"]) != 1:
        raise RowsError(f"optuna_studies: {len(numbers['optuna_studies'])} rows in place of one")
    (study_id,) = numbers["optuna_studies"].values()
    connection.execute(
        update(attempts)
        .where(attempts.c.study_id == study_id, attempts.c.ended_at.is_(None))
        .values(expires_at=func.least(attempts.c.expires_at, now()))
    )
    return study_id, counts


def _insert(
    connection: Connection, table: _Table, batch: Sequence[Row], numbers: dict[str, dict[int, int]]
) -> None:
    rows = [_moved(table, row, numbers) for row in batch if _goes_along(table, row)]
    if table.own is not None:
        fresh = _new_numbers(connection, table, len(rows))
        known = numbers[table.name]
        for place, number in enumerate(fresh):
            old = rows[place][table.own]
            if type(old) is not int or old in known:
                raise ValueError(f"{table.own} {str(old)[:40]} is given twice, or is no number")
            known[old] = number
            rows[place] |= {table.own: number}
    connection.execute(
        text(
            f"INSERT INTO {table.table} SELECT * FROM"
            f" jsonb_populate_recordset(CAST(NULL AS {table.table}), CAST(:rows AS jsonb))"
        ),
        {"rows": json.dumps(rows)},
    )


def _goes_along(table: _Table, row: Row) -> bool:
    match table.name:
        case "optuna_study_system_attributes":
            return bool(_OF_STUDY.fullmatch(row["key"]) or _NOTE.fullmatch(row["key"]))
        case "optuna_system_attributes":
            return not row["key"].startswith(_FILE_OF_TRIAL)
        case _:
            return True


def _moved(table: _Table, row: Row, numbers: Mapping[str, Mapping[int, int]]) -> Row:
    """A row that refers to the rows of this database."""
    if (empty := next((name for name in _filled(table) if row.get(name) is None), None)) is not None:
        raise ValueError(f"{empty} is empty")
    moved = row | {
        column: None if row[column] is None else numbers[other][row[column]]
        for column, other in table.refers.items()
    }
    if table.name == "optuna_user_attributes" and row["key"] == LEASE_ATTRIBUTE:
        # Of a lease that ended before its attempt was made, nothing is left to refer to.
        moved["value_json"] = json.dumps(numbers["attempts"].get(int(row["value_json"]), 0))
    if table.name == "optuna_study_system_attributes" and (found := _NOTE.fullmatch(row["key"])) and found[1]:
        trial = numbers["optuna_trials"][int(found[1])]
        moved["key"] = f"{row['key'][: found.start(1)]}{trial}{row['key'][found.end(1) :]}"
    if table.name == "attempts":
        moved["token"] = None  # of a claim that nobody repeats here
    if table.name == "out_of_fold":
        moved["published_at"] = None
    return moved


@functools.cache
def _filled(table: _Table) -> tuple[str, ...]:
    """The columns of Optuna's that are never empty, though Optuna's tables let most of them be."""
    if table.table not in _OPTUNAS:
        return ()
    columns = (column.name for column in _OPTUNAS[table.table].columns)
    return tuple(name for name in columns if name not in _MAY_BE_EMPTY)


def _new_numbers(connection: Connection, table: _Table, count: int) -> list[int]:
    statement = text(
        "SELECT nextval(pg_get_serial_sequence(:table, :column)) FROM generate_series(1, :count)"
    )
    given = {"table": table.table, "column": table.own, "count": count}
    return sorted(connection.execute(statement, given).scalars())


@dataclass(frozen=True, slots=True)
class StudyAttributes:
    """What Optuna keeps of a study itself. ``directions`` are of its objectives, in their order."""

    name: str
    directions: tuple[str, ...]
    user: Mapping[str, Any]
    system: Mapping[str, Any]


def study_attributes(connection: Connection, study_id: int) -> StudyAttributes:
    """What Optuna keeps of a study that another transaction may not see yet."""
    given = {"study": study_id}
    name = connection.execute(text("SELECT study_name FROM studies WHERE study_id = :study"), given)
    directions = connection.execute(
        text("SELECT direction::text FROM study_directions WHERE study_id = :study ORDER BY objective"), given
    )
    user, system = (
        {
            row.key: json.loads(row.value_json)
            for row in connection.execute(
                text(f"SELECT key, value_json FROM study_{kind}_attributes WHERE study_id = :study"), given
            )
        }
        for kind in ("user", "system")
    )
    return StudyAttributes(name.scalar_one(), tuple(directions.scalars()), user, system)


def odd_column(connection: Connection, study_id: int) -> str | None:
    """A column in which a row of a study has a time or a number that nobody reads: infinite, or long ago."""
    known = {table.fullname: table for table in (*metadata.sorted_tables, *_OPTUNAS.values())}
    for table in TABLES:
        for column in known[table.table].columns:
            if isinstance(column.type, DateTime):
                sound = f"{column.name} BETWEEN '2000-01-01' AND '2200-01-01'"
            elif isinstance(column.type, Float):
                sound = f"abs({column.name}) < 1e300"  # which PostgreSQL's NaN is not
            else:
                continue
            odd = f"SELECT EXISTS (SELECT FROM {table.table} WHERE {_of_study(table)} AND NOT ({sound}))"
            if connection.execute(text(odd), {"study": study_id}).scalar_one():
                return f"{table.name}.{column.name}"
    return None


_OPTUNAS: Mapping[str, Table] = models.BaseModel.metadata.tables
