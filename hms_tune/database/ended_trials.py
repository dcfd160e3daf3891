"""The thousands of ended trials of a long study, read column by column when somebody asks for a column.

What a trial has comes in rows of one parameter, attribute or step with the values of all trials, as binary
numbers. A slot with a pruner reads reports and no parameters, one that draws at random and prunes nothing
reads none of it. Nothing changes an ended trial, so a column that is read later says the same.
"""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import FloatDistribution
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import Connection, Row, TextClause, text

from hms_tune.database.trial_reader import NOT_FINITE, distribution_of

Read = Callable[[TextClause, Mapping[str, Any]], Sequence[Row[Any]]]
"""Runs a statement in a transaction of its own."""

_ENDED = "state IN ('COMPLETE', 'PRUNED', 'FAIL')"
_ASKED = "study_id = :study AND (:every OR trial_id = ANY(CAST(:among AS int[])))"
_BEGUN = text(f"""
    WITH study AS MATERIALIZED (
        SELECT trial_id, number, state, datetime_start, datetime_complete FROM trials WHERE {_ASKED}
    )
    SELECT 'trial' AS kind, state::text AS name, NULL AS told,
           string_agg(int4send(trial_id), ''::bytea) AS ids,
           string_agg(int4send(number), ''::bytea) AS numbers,
           string_agg(float8send(coalesce(extract(epoch FROM datetime_start)::float8, 'NaN')), ''::bytea)
               AS starts,
           string_agg(float8send(coalesce(extract(epoch FROM datetime_complete)::float8, 'NaN')), ''::bytea)
               AS ends
    FROM study WHERE {_ENDED} GROUP BY state
    UNION ALL SELECT 'value', objective::text, value_type::text, string_agg(int4send(trial_id), ''::bytea),
           string_agg(float8send(coalesce(value, 0)), ''::bytea), NULL, NULL
    FROM trial_values JOIN study USING (trial_id) WHERE {_ENDED} GROUP BY objective, value_type
    UNION ALL SELECT 'study', max(trial_id)::text, NULL,
           string_agg(int4send(trial_id), ''::bytea) FILTER (WHERE NOT {_ENDED}), NULL, NULL, NULL
    FROM study HAVING EXISTS (SELECT FROM studies WHERE study_id = :study)
""")
_OF_STUDY = f"JOIN trials USING (trial_id) WHERE {_ASKED} AND {_ENDED}"
_PARAMS = text(f"""
    SELECT param_name AS name, distribution_json AS told, string_agg(int4send(trial_id), ''::bytea) AS ids,
           string_agg(float8send(param_value), ''::bytea) AS numbers
    FROM trial_params {_OF_STUDY} GROUP BY param_name, distribution_json ORDER BY min(param_id)
""")
_REPORTS = text(f"""
    SELECT step AS name, intermediate_value_type::text AS told,
           string_agg(int4send(trial_id), ''::bytea) AS ids,
           string_agg(float8send(coalesce(intermediate_value, 0)), ''::bytea) AS numbers
    FROM trial_intermediate_values {_OF_STUDY} GROUP BY step, intermediate_value_type ORDER BY step
""")
_ATTRIBUTES = """
    SELECT key AS name, string_agg(int4send(trial_id), ''::bytea) AS ids, string_agg(value_json, ',') AS texts
    FROM {} {} GROUP BY key
"""
_USER = text(_ATTRIBUTES.format("trial_user_attributes", _OF_STUDY))
_SYSTEM = text(_ATTRIBUTES.format("trial_system_attributes", _OF_STUDY))

_ABSENT: Any = object()

Ids = NDArray[np.int32]


def read_ended(
    read: Read, study_id: int, *, among: Collection[int] | None = None
) -> tuple[list[FrozenTrial], set[int], int]:
    """All trials of a study that have ended, the ids of those that have not, and the newest id of all.

    Parameters
    ----------
    read : also kept, to read what trials are asked for later
    among : ids of the only trials to look at; None: all

    Raises
    ------
    KeyError
        If there is no such study.
    """
    asked = {"study": study_id, "every": among is None, "among": list(among or ())}
    rows = read(_BEGUN, asked)
    study = next((row for row in rows if row.kind == "study"), None)
    if study is None:
        raise KeyError(f"no study {study_id}")
    begun = sorted(each for row in rows if row.kind == "trial" for each in _begun(row))
    past = _Past(asked, np.array([each[0] for each in begun], np.int32), read)
    of_values = sorted((row for row in rows if row.kind == "value"), key=lambda row: int(row.name))
    values = past.by_trial([row.name for row in of_values], of_values, _numbers)
    ended: list[FrozenTrial] = [
        _EndedTrial(past, place, each, list(told.values()) or None)
        for place, (each, told) in enumerate(zip(begun, values, strict=True))
    ]
    unfinished = set() if study.ids is None else set(_integers(study.ids).tolist())
    return ended, unfinished, -1 if study.name is None else int(study.name)


_Begun = tuple[int, int, str, float, float]
"""Id, number, state, and the seconds of start and end."""


def ended_trials(
    connection: Connection, study_id: int, *, among: Collection[int] | None = None
) -> list[FrozenTrial]:
    """All trials of a study that have ended, as one transaction sees them; they are of no use after it.

    Parameters
    ----------
    among : ids of the only trials to look at; None: all
    """
    ended, _, _ = read_ended(lambda *asked: connection.execute(*asked).all(), study_id, among=among)
    return ended


def without_reports(trial: FrozenTrial) -> FrozenTrial:
    """The same trial, as if it had reported nothing; what is not read of it is read when asked for."""
    bare: FrozenTrial = object.__new__(type(trial))
    vars(bare).update(vars(trial), intermediate_values={})
    return bare


def _begun(row: Row[Any]) -> Iterator[_Begun]:
    ids, numbers = _integers(row.ids).tolist(), _integers(row.numbers).tolist()
    starts, ends = _floats(row.starts), _floats(row.ends)
    return zip(ids, numbers, [row.name] * len(ids), starts, ends, strict=True)


class _Past:
    """What the ended trials of a study have, a list with an entry for each trial, read when asked for first.

    Parameters
    ----------
    asked : what the statements are given
    ids : of the trials, ascending
    """

    def __init__(self, asked: Mapping[str, Any], ids: Ids, read: Read) -> None:
        self._asked_for, self._ids, self._read = asked, ids, read
        self._told: dict[str, Sequence[Any]] = {}
        self._lock = threading.Lock()

    def told(self, field: str, place: int) -> Any:
        """One field of the trial at a place."""
        with self._lock:
            if field not in self._told:
                self._told |= self._asked(field)
            return self._told[field][place]

    def by_trial(
        self, names: Sequence[Any], rows: Sequence[Row[Any]], read: Callable[[Row[Any]], Sequence[Any]]
    ) -> Sequence[dict[Any, Any]]:
        """One dictionary for each trial, by these names, from the rows that say it of all trials."""
        told = [read(row) for row in rows]
        columns = [self._column(row, values) for row, values in zip(rows, told, strict=True)]
        if not columns:
            return [{} for _ in self._ids]
        each = zip(*columns, strict=True)
        # As many rows may be of others: a trial without the name, and one with it that has ended since.
        whole = all(column is values for column, values in zip(columns, told, strict=True))
        if len(set(names)) == len(names) and whole:
            return [dict(zip(names, values, strict=True)) for values in each]
        return [
            {name: value for name, value in zip(names, values, strict=True) if value is not _ABSENT}
            for values in each
        ]

    def _asked(self, field: str) -> dict[str, Sequence[Any]]:
        statement, read = _FIELDS[field]
        rows = self._read(statement, self._asked_for)
        names = [row.name for row in rows]
        if statement is not _PARAMS:
            return {field: self.by_trial(names, rows, read)}
        return {each: self.by_trial(names, rows, _FIELDS[each][1]) for each in ("_params", "_distributions")}

    def _column(self, row: Row[Any], told: Sequence[Any]) -> Sequence[Any]:
        ids = _integers(row.ids)
        if np.array_equal(ids, self._ids):
            return told
        column = [_ABSENT] * len(self._ids)
        places = np.searchsorted(self._ids, ids)
        known = self._ids[np.minimum(places, len(self._ids) - 1)] == ids  # others have ended since
        for place, is_known, value in zip(places.tolist(), known.tolist(), told, strict=True):
            if is_known:
                column[place] = value
        return column


def _integers(told: memoryview) -> Ids:
    return np.frombuffer(told, ">i4").astype(np.int32)


def _floats(told: memoryview) -> list[float]:
    found: list[float] = np.frombuffer(told, ">f8").tolist()
    return found


def _numbers(row: Row[Any]) -> Sequence[float]:
    return [NOT_FINITE[row.told]] * (len(row.ids) // 4) if row.told in NOT_FINITE else _floats(row.numbers)


def _external(row: Row[Any]) -> Sequence[Any]:
    distribution, numbers = distribution_of(row.told), _floats(row.numbers)
    as_told = isinstance(distribution, FloatDistribution)
    return numbers if as_told else [distribution.to_external_repr(each) for each in numbers]


def _distributions(row: Row[Any]) -> Sequence[Any]:
    return [distribution_of(row.told)] * (len(row.ids) // 4)


def _values(row: Row[Any]) -> Sequence[Any]:
    found: list[Any] = json.loads(f"[{row.texts}]")
    return found


_FIELDS: dict[str, tuple[TextClause, Callable[[Row[Any]], Sequence[Any]]]] = {
    "_params": (_PARAMS, _external),
    "_distributions": (_PARAMS, _distributions),
    "intermediate_values": (_REPORTS, _numbers),
    "_user_attrs": (_USER, _values),
    "_system_attrs": (_SYSTEM, _values),
}
"""Fields of Optuna's trial that are read when asked for, and how."""


class _Field:
    """A field that is read with those of all other trials when it is first asked for.

    Once it is in the trial's own dictionary, Python finds it there.
    """

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, trial: Any, owner: type) -> Any:
        if trial is None:
            return self
        kept = vars(trial)
        kept[self._name] = kept["_past"].told(self._name, kept["_place"])
        return kept[self._name]


class _EndedTrial(FrozenTrial):
    """A trial that has ended, of which no more is read than somebody asks for. A copy is an Optuna trial."""

    _params: Any = _Field()
    _distributions: Any = _Field()
    _user_attrs: Any = _Field()
    _system_attrs: Any = _Field()
    intermediate_values: Any = _Field()

    def __init__(self, past: _Past, place: int, begun: _Begun, values: list[float] | None) -> None:
        trial_id, number, state, starts, ends = begun
        self._past, self._place = past, place
        self._trial_id, self._number = trial_id, number
        self.state = TrialState[state]
        self._values = values
        self._datetime_start, self.datetime_complete = _at(starts), _at(ends)

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy as one of Optuna's."""
        return _frozen, (
            {
                "number": self.number,
                "state": self.state,
                "value": None,
                "values": self.values,
                "datetime_start": self.datetime_start,
                "datetime_complete": self.datetime_complete,
                "params": self.params,
                "distributions": self.distributions,
                "user_attrs": self.user_attrs,
                "system_attrs": self.system_attrs,
                "intermediate_values": self.intermediate_values,
                "trial_id": self._trial_id,
            },
        )

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        """The same for every protocol."""
        return self.__reduce__()

    def __eq__(self, other: object) -> bool:
        """Whether both are the same, whatever of them was asked for so far."""
        if not isinstance(other, FrozenTrial):
            return NotImplemented
        theirs = _as_optunas(other) if isinstance(other, _EndedTrial) else other
        return _as_optunas(self) == theirs

    __hash__ = FrozenTrial.__hash__

    def __repr__(self) -> str:
        """As Optuna's."""
        return repr(_as_optunas(self))


def _frozen(fields: dict[str, Any]) -> FrozenTrial:
    return FrozenTrial(**fields)


def _as_optunas(trial: _EndedTrial) -> FrozenTrial:
    return _frozen(trial.__reduce__()[1][0])


def _at(seconds: float) -> datetime | None:
    """Naive local time, as Optuna has it."""
    return None if math.isnan(seconds) else datetime.fromtimestamp(seconds)
