"""Optuna's trials read in one statement, each with all that belongs to it.

Optuna's own reading takes seven statements, and builds every distribution of every trial anew from its JSON.
The thousands of ended trials of a long study come by :mod:`~hms_tune.database.ended_trials`.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Collection
from datetime import UTC, datetime
from typing import Any

from optuna.distributions import BaseDistribution, json_to_distribution
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
_SOME = text(f"SELECT {_COLUMNS}, {_TOLD} AS told FROM trials t WHERE t.trial_id = ANY(:trials)")

NOT_FINITE = {"INF_POS": math.inf, "INF_NEG": -math.inf, "NAN": math.nan}


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


def trials_by_id(connection: Connection, trial_ids: Collection[int]) -> list[FrozenTrial]:
    """Some trials; those that are not there are left out."""
    return [_trial(row) for row in connection.execute(_SOME, {"trials": list(trial_ids)})]


def read_trial(connection: Connection, trial_id: int) -> FrozenTrial:
    """One trial.

    Raises
    ------
    KeyError
        If there is none.
    """
    found = trials_by_id(connection, [trial_id])
    if not found:
        raise KeyError(f"no trial {trial_id}")
    return found[0]


def _trial(row: Row[Any]) -> FrozenTrial:
    # PostgreSQL writes 1.0 as 1.
    told = json.loads(row.told, parse_int=float) if row.told else (None,) * 5
    values, params, user, system, reported = told
    distributions = {name: distribution_of(told) for name, _, told in params or ()}
    return FrozenTrial(
        number=row.number,
        state=TrialState[row.state],
        value=None,
        values=[_number(*each) for each in values] if values else None,
        datetime_start=_local(row.datetime_start),
        datetime_complete=_local(row.datetime_complete),
        params={name: distributions[name].to_external_repr(value) for name, value, _ in params or ()},
        distributions=distributions,
        user_attrs=_attributes(user),
        system_attrs=_attributes(system),
        intermediate_values={int(step): _number(value, kind) for step, value, kind in reported or ()},
        trial_id=row.trial_id,
    )


def _attributes(told: list[tuple[str, str]] | None) -> dict[str, Any]:
    if not told:
        return {}
    values = json.loads(f"[{','.join(value for _, value in told)}]")
    return {key: value for (key, _), value in zip(told, values, strict=True)}


def _number(value: float | None, kind: str) -> float:
    return NOT_FINITE[kind] if value is None else value


def _local(moment: datetime | None) -> datetime | None:
    """Optuna keeps naive UTC and shows naive local time."""
    return None if moment is None else moment.replace(tzinfo=UTC).astimezone().replace(tzinfo=None)


@functools.lru_cache(maxsize=4096)
def distribution_of(told: str) -> BaseDistribution:
    """A study has a handful of distributions, and each trial all of them; nothing changes one."""
    return json_to_distribution(told)
