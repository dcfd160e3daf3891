"""Optuna's trials read in one statement, each with all that belongs to it.

Optuna's own reading takes seven statements, and builds every distribution of every trial anew from its JSON.
The thousands of ended trials of a long study come column by column (:func:`read_ended`): a row for each
parameter, attribute and step, with the values of all trials.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from optuna.distributions import BaseDistribution, FloatDistribution, json_to_distribution
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import Connection, Row, text

# Numbers come with every digit: PostgreSQL writes the shortest text that reads back as the same float.
_COLUMNS = "t.trial_id, t.number, t.state::text AS state, t.datetime_start, t.datetime_complete"
_TOLD = """json_build_array(
        (SELECT json_agg(json_build_array(v.value, v.value_type) ORDER BY v.objective)
         FROM trial_values v WHERE v.trial_id = t.trial_id),
        (SELECT json_agg(json_build_array(p.param_name, p.param_value, p.distribution_json)
                         ORDER BY p.param_id)
         FROM trial_params p WHERE p.trial_id = t.trial_id),
        (SELECT json_agg(json_build_array(a.key, a.value_json))
         FROM trial_user_attributes a WHERE a.trial_id = t.trial_id),
        (SELECT json_agg(json_build_array(a.key, a.value_json))
         FROM trial_system_attributes a WHERE a.trial_id = t.trial_id),
        (SELECT json_agg(json_build_array(i.step, i.intermediate_value, i.intermediate_value_type)
                         ORDER BY i.step)
         FROM trial_intermediate_values i WHERE i.trial_id = t.trial_id))::text
"""

# A study without such trials has one row, of nulls; one that is not there has none.
_OF_STUDY = text(f"""
    SELECT {_COLUMNS}, CASE WHEN :whole OR t.state IN ('COMPLETE', 'PRUNED', 'FAIL') THEN {_TOLD} END AS told
    FROM studies s
    LEFT JOIN trials t ON t.study_id = s.study_id AND (t.trial_id > :after OR t.trial_id = ANY(:included))
        AND (:every OR t.state::text = ANY(:states))
    WHERE s.study_id = :study ORDER BY t.trial_id
""")
_ENDED = text("""
    WITH ended AS MATERIALIZED (
        SELECT trial_id, number, state, datetime_start, datetime_complete FROM trials
        WHERE study_id = :study AND state IN ('COMPLETE', 'PRUNED', 'FAIL')
    ), study AS MATERIALIZED (SELECT trial_id, state FROM trials WHERE study_id = :study)
    SELECT 'trial' AS kind, state::text AS name, NULL AS told, array_agg(trial_id) AS ids,
           array_agg(number::float8) AS numbers, NULL::text[] AS texts,
           array_agg(extract(epoch FROM datetime_start)::float8) AS starts,
           array_agg(extract(epoch FROM datetime_complete)::float8) AS ends
    FROM ended GROUP BY state
    UNION ALL SELECT 'value', objective::text, value_type::text, array_agg(trial_id), array_agg(value),
           NULL, NULL, NULL
    FROM trial_values JOIN ended USING (trial_id) GROUP BY objective, value_type
    UNION ALL SELECT 'param', param_name, distribution_json, array_agg(trial_id), array_agg(param_value),
           NULL, ARRAY[min(param_id)]::float8[], NULL
    FROM trial_params JOIN ended USING (trial_id) GROUP BY param_name, distribution_json
    UNION ALL SELECT 'report', step::text, intermediate_value_type::text, array_agg(trial_id),
           array_agg(intermediate_value), NULL, NULL, NULL
    FROM trial_intermediate_values JOIN ended USING (trial_id) GROUP BY step, intermediate_value_type
    UNION ALL SELECT 'user', key, NULL, array_agg(trial_id), NULL, array_agg(value_json), NULL, NULL
    FROM trial_user_attributes JOIN ended USING (trial_id) GROUP BY key
    UNION ALL SELECT 'system', key, NULL, array_agg(trial_id), NULL, array_agg(value_json), NULL, NULL
    FROM trial_system_attributes JOIN ended USING (trial_id) GROUP BY key
    UNION ALL SELECT 'study', NULL, NULL,
           array_agg(trial_id) FILTER (WHERE state NOT IN ('COMPLETE', 'PRUNED', 'FAIL')),
           ARRAY[max(trial_id)]::float8[], NULL, NULL, NULL
    FROM study HAVING EXISTS (SELECT FROM studies WHERE study_id = :study)
""")
_ONE = text(f"SELECT {_COLUMNS}, {_TOLD} AS told FROM trials t WHERE t.trial_id = :trial")

_NOT_FINITE = {"INF_POS": math.inf, "INF_NEG": -math.inf, "NAN": math.nan}


def read_trials(
    connection: Connection,
    study_id: int,
    *,
    states: Collection[TrialState] | None,
    included: Collection[int],
    after: int,
    whole: bool = True,
) -> list[FrozenTrial]:
    """A study's trials in these states (None: in any) that are newer than one, or among some.

    Parameters
    ----------
    whole : False: of trials that have not ended, nothing but number and state

    Raises
    ------
    KeyError
        If there is no such study.
    """
    rows = connection.execute(
        _OF_STUDY,
        {
            "study": study_id,
            "after": after,
            "included": list(included),
            "every": states is None,
            "whole": whole,
            "states": [state.name for state in states or ()],
        },
    ).all()
    if not rows:
        raise KeyError(f"no study {study_id}")
    return [_trial(row) for row in rows if row.trial_id is not None]


def read_ended(connection: Connection, study_id: int) -> tuple[list[FrozenTrial], set[int], int]:
    """All trials of a study that have ended, the ids of those that have not, and the newest id of all.

    Raises
    ------
    KeyError
        If there is no such study.
    """
    rows = connection.execute(_ENDED, {"study": study_id}).all()
    study = next((row for row in rows if row.kind == "study"), None)
    if study is None:
        raise KeyError(f"no study {study_id}")
    begun = sorted(
        each
        for row in rows
        if row.kind == "trial"
        for each in zip(row.ids, row.numbers, [row.name] * len(row.ids), row.starts, row.ends, strict=True)
    )
    columns = _Columns([trial_id for trial_id, *_ in begun], rows)
    each_told = zip(
        begun,
        columns.values(),
        columns.of("param", _external),
        columns.of("param", lambda row: [_distribution(row.told)] * len(row.ids)),
        columns.of("report", _numbers),
        columns.of("user", lambda row: row.texts),
        columns.of("system", lambda row: row.texts),
        strict=True,
    )
    ended: list[FrozenTrial] = [_EndedTrial(*told) for told in each_told]
    return ended, set(study.ids or ()), int(study.numbers[0] or -1)


class _Columns:
    """What each trial has, from rows that say it of all trials.

    Parameters
    ----------
    ids : of the trials, ascending
    """

    def __init__(self, ids: list[int], rows: Sequence[Row[Any]]) -> None:
        self._place = {trial_id: place for place, trial_id in enumerate(ids)}
        self._rows = rows

    def of(self, kind: str, read: Callable[[Row[Any]], Sequence[Any]]) -> Iterator[dict[Any, Any]]:
        """One dictionary for each trial, by parameter, step or key, from the rows of a kind."""
        rows = sorted((row for row in self._rows if row.kind == kind), key=_order)
        names = [int(row.name) if kind == "report" else row.name for row in rows]
        columns = [self._column(row, read(row)) for row in rows]
        if not columns:
            return ({} for _ in self._place)
        each = zip(*columns, strict=True)
        if all(len(row.ids) == len(self._place) for row in rows):
            return (dict(zip(names, told, strict=True)) for told in each)
        return (
            {name: value for name, value in zip(names, told, strict=True) if value is not _ABSENT}
            for told in each
        )

    def values(self) -> Iterator[list[float] | None]:
        """The values of each trial, one for each objective; None: it has none."""
        return (list(each.values()) or None for each in self.of("value", _numbers))

    def _column(self, row: Row[Any], told: Sequence[Any]) -> list[Any]:
        column = [_ABSENT] * len(self._place)
        for trial_id, value in zip(row.ids, told, strict=True):
            column[self._place[trial_id]] = value
        return column


_ABSENT: Any = object()


def _numbers(row: Row[Any]) -> Sequence[float]:
    return [_NOT_FINITE[row.told]] * len(row.ids) if row.told in _NOT_FINITE else row.numbers


def _external(row: Row[Any]) -> Sequence[Any]:
    distribution = _distribution(row.told)
    as_told = isinstance(distribution, FloatDistribution)
    return row.numbers if as_told else [distribution.to_external_repr(each) for each in row.numbers]


def _order(row: Row[Any]) -> float:
    """Parameters as they were drawn, steps and objectives ascending."""
    match row.kind:
        case "param":
            return float(row.starts[0])
        case "report" | "value":
            return float(row.name)
        case _:
            return 0.0


class _EndedTrial(FrozenTrial):
    """A trial whose attributes are read from their JSON when somebody asks for them: most never are."""

    def __init__(
        self,
        begun: tuple[int, float, str, float | None, float | None],
        values: list[float] | None,
        params: dict[str, Any],
        distributions: dict[str, BaseDistribution],
        reported: dict[int, float],
        user: dict[str, str],
        system: dict[str, str],
    ) -> None:
        trial_id, number, state, starts, ends = begun
        self._told = {"user": user, "system": system}
        super().__init__(
            number=int(number),
            state=TrialState[state],
            value=None,
            values=values,
            datetime_start=_at(starts),
            datetime_complete=_at(ends),
            params=params,
            distributions=distributions,
            user_attrs={},
            system_attrs={},
            intermediate_values=reported,
            trial_id=trial_id,
        )

    @property
    def user_attrs(self) -> dict[str, Any]:
        """What the product and scripts wrote."""
        return self._asked("user", self._user_attrs)

    @user_attrs.setter
    def user_attrs(self, value: dict[str, Any]) -> None:
        self._told["user"], self._user_attrs = {}, value

    @property
    def system_attrs(self) -> dict[str, Any]:
        """What Optuna wrote."""
        return self._asked("system", self._system_attrs)

    @system_attrs.setter
    def system_attrs(self, value: Mapping[str, Any]) -> None:
        self._told["system"], self._system_attrs = {}, dict(value)

    def __eq__(self, other: object) -> bool:
        """Whether both are the same, whatever of them was asked for so far."""
        if not isinstance(other, FrozenTrial):
            return NotImplemented
        return _all_of(self) == _all_of(other)

    __hash__ = FrozenTrial.__hash__

    def _asked(self, kind: str, attributes: dict[str, Any]) -> dict[str, Any]:
        if told := self._told[kind]:
            attributes.update((key, json.loads(value)) for key, value in told.items())
            self._told = self._told | {kind: {}}
        return attributes


def _all_of(trial: FrozenTrial) -> dict[str, Any]:
    told = {"_user_attrs": trial.user_attrs, "_system_attrs": trial.system_attrs}
    return {name: value for name, value in (vars(trial) | told).items() if name != "_told"}


def _at(seconds: float | None) -> datetime | None:
    """Naive local time, as Optuna has it."""
    return None if seconds is None else datetime.fromtimestamp(seconds)


def read_trial(connection: Connection, trial_id: int) -> FrozenTrial:
    """One trial.

    Raises
    ------
    KeyError
        If there is none.
    """
    row = connection.execute(_ONE, {"trial": trial_id}).one_or_none()
    if row is None:
        raise KeyError(f"no trial {trial_id}")
    return _trial(row)


def _trial(row: Row[Any]) -> FrozenTrial:
    # PostgreSQL writes 1.0 as 1.
    told = json.loads(row.told, parse_int=float) if row.told else (None,) * 5
    values, params, user, system, reported = told
    distributions = {name: _distribution(told) for name, _, told in params or ()}
    return FrozenTrial(
        number=row.number,
        state=TrialState[row.state],
        value=None,
        values=[_number(*each) for each in values] if values else None,
        datetime_start=_local(row.datetime_start),
        datetime_complete=_local(row.datetime_complete),
        params={name: distributions[name].to_external_repr(value) for name, value, _ in params or ()},
        distributions=distributions,
        user_attrs={key: json.loads(value) for key, value in user or ()},
        system_attrs={key: json.loads(value) for key, value in system or ()},
        intermediate_values={int(step): _number(value, kind) for step, value, kind in reported or ()},
        trial_id=row.trial_id,
    )


def _number(value: float | None, kind: str) -> float:
    return _NOT_FINITE[kind] if value is None else value


def _local(moment: datetime | None) -> datetime | None:
    """Optuna keeps naive UTC and shows naive local time."""
    return None if moment is None else moment.replace(tzinfo=UTC).astimezone().replace(tzinfo=None)


@functools.lru_cache(maxsize=4096)
def _distribution(told: str) -> BaseDistribution:
    """A study has a handful of distributions, and each trial all of them; nothing changes one."""
    return json_to_distribution(told)
