"""What becomes of each SQLSTATE that psycopg2 knows."""

from __future__ import annotations

import psycopg2
import pytest
from optuna.exceptions import StorageInternalError
from psycopg2 import errorcodes, errors
from sqlalchemy.exc import DBAPIError

from hms_tune.database.connection.retry import as_storage_error, passes
from hms_tune.database.connection.sqlstates import Fate, entry_of
from hms_tune.errors import StorageAwayError, StorageError

AGAIN = {"25P03", "25P04", "40000", "40001", "40002", "40003", "40P01", "55P03", "57P05"}
WAIT = {
    *("08000", "08001", "08003", "08004", "08006", "08007", "08P01"),
    *("53000", "53100", "53200", "53300", "53400"),
    *("57000", "57014", "57P01", "57P02", "57P03", "57P04", "58030"),
}
RECONNECT = {"25006"}
TOLD = {"22P05", "28000", "28P01", "3D000", "42501"}

ALL = sorted(
    state
    for name, state in vars(errorcodes).items()
    if name.isupper() and isinstance(state, str) and len(state) == 5
)


def raised(state: str) -> DBAPIError:
    """The error that SQLAlchemy raises for a SQLSTATE."""
    try:
        kind = errors.lookup(state)
    except KeyError:
        kind = psycopg2.DatabaseError
    original = type("Coded", (kind,), {"pgcode": state})("said by the server")
    made: DBAPIError = DBAPIError.instance("SELECT 1", None, original, psycopg2.Error)  # type: ignore[assignment]
    return made


@pytest.mark.parametrize("state", ALL)
def test_each_sqlstate_has_its_fate(state: str) -> None:
    expected = next(
        (
            fate
            for fate, states in (
                (Fate.AGAIN, AGAIN),
                (Fate.WAIT, WAIT),
                (Fate.RECONNECT, RECONNECT),
                (Fate.TOLD, TOLD),
            )
            if state in states
        ),
        Fate.FAULT,
    )
    error = raised(state)
    by_optuna = StorageInternalError("Optuna's words")
    by_optuna.__cause__ = error
    assert entry_of(error).fate is entry_of(by_optuna).fate is entry_of(error.orig).fate is expected  # type: ignore[arg-type]
    told = as_storage_error(error)
    if expected is Fate.FAULT:
        assert told is None
    else:
        assert passes(error) is (expected is not Fate.TOLD)
        assert isinstance(told, StorageError)
        assert isinstance(told, StorageAwayError) is passes(error)
        assert told.hint


def test_no_sqlstate_is_expected_that_psycopg2_does_not_know() -> None:
    assert set(ALL) >= AGAIN | WAIT | RECONNECT | TOLD


@pytest.mark.parametrize(
    ("kind", "fate"),
    [
        (psycopg2.OperationalError, Fate.WAIT),
        (psycopg2.InterfaceError, Fate.WAIT),
        (psycopg2.ProgrammingError, Fate.FAULT),
        (psycopg2.IntegrityError, Fate.FAULT),
    ],
)
def test_an_error_without_a_sqlstate_is_one_of_the_way_there_or_of_the_program(
    kind: type[psycopg2.Error], fate: Fate
) -> None:
    assert entry_of(kind("no answer")).fate is fate
    wrapped = DBAPIError.instance("SELECT 1", None, kind("no answer"), psycopg2.Error)
    assert entry_of(wrapped).fate is fate
