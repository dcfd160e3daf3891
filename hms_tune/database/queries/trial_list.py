"""The attempts of a study by what a list is sorted by; the attempts themselves are read page by page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from optuna.trial import TrialState as OptunaState
from sqlalchemy import Connection, text

from hms_tune.database.optuna_trial import SECONDS_ATTRIBUTE, state_by_both
from hms_tune.database.tables import SCHEMA
from hms_tune.database.trial_reader import NOT_FINITE, distribution_of
from hms_tune.trial_state import AttemptState, TrialState


@dataclass(frozen=True, slots=True)
class AttemptKey:
    """One attempt by what it may be sorted by. ``trial`` is a number, ``optuna_trial_id`` an id.

    ``value`` is the score of a complete one, or what one trained in part reported last, at ``step``.
    ``params`` has the one parameter that was asked for, if the attempt has it.
    """

    optuna_trial_id: int
    trial: int
    state: AttemptState
    value: float | None
    step: int | None
    seconds: float | None
    params: dict[str, Any]


_KEYS = text(f"""
    SELECT t.trial_id, coalesce(ours.number, t.number) AS trial, t.state::text AS state, a.state AS ours,
           CASE WHEN ours.last_optuna_trial_id = t.trial_id THEN ours.reason END AS reason,
           v.value, v.value_type::text AS value_type, r.step, r.intermediate_value AS reported,
           s.value_json AS seconds,
           p.param_value, p.distribution_json
    FROM trials t
    LEFT JOIN {SCHEMA}.attempts a ON a.optuna_trial_id = t.trial_id
    LEFT JOIN {SCHEMA}.trials ours ON ours.trial_id = a.trial_id
    LEFT JOIN trial_values v ON v.trial_id = t.trial_id AND v.objective = 0 AND t.state = 'COMPLETE'
    LEFT JOIN LATERAL (
        SELECT step, intermediate_value FROM trial_intermediate_values
        WHERE trial_id = t.trial_id AND t.state IN ('PRUNED', 'RUNNING') ORDER BY step DESC LIMIT 1
    ) r ON true
    LEFT JOIN trial_user_attributes s ON s.trial_id = t.trial_id AND s.key = :seconds
    LEFT JOIN trial_params p ON p.trial_id = t.trial_id AND p.param_name = :param
    WHERE t.study_id = :study ORDER BY t.number
""")
_PARAMS = text("""
    SELECT param_name FROM trial_params JOIN trials USING (trial_id) WHERE study_id = :study
    GROUP BY param_name ORDER BY min(param_id)
""")


def attempt_keys(
    connection: Connection,
    study_id: int,
    *,
    ended_later: Mapping[str, TrialState],
    param: str | None = None,
) -> list[AttemptKey]:
    """What each attempt of a study is sorted by, in their order.

    Parameters
    ----------
    ended_later : by its reason, how a trial ended that ended after its last attempt had
    param : a parameter by which they may be sorted, too
    """
    asked = {"study": study_id, "seconds": SECONDS_ATTRIBUTE, "param": param}
    found = []
    for row in connection.execute(_KEYS, asked):
        ours = None if row.ours is None else AttemptState(row.ours)
        later = ended_later.get(row.reason)
        state = state_by_both(OptunaState[row.state], ours) if later is None else AttemptState(later)
        value = row.reported if row.step is not None else NOT_FINITE.get(row.value_type, row.value)
        params = {}
        if param is not None and row.distribution_json is not None:
            params[param] = distribution_of(row.distribution_json).to_external_repr(row.param_value)
        seconds = None if row.seconds is None else float(row.seconds)
        found.append(AttemptKey(row.trial_id, row.trial, state, value, row.step, seconds, params))
    return found


def param_names(connection: Connection, study_id: int) -> list[str]:
    """Every parameter that an attempt of a study has, in the order in which they were first drawn."""
    return list(connection.execute(_PARAMS, {"study": study_id}).scalars())
