"""Optuna's trials made in the caller's transaction, together with what the product writes beside them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from optuna.distributions import distribution_to_json
from optuna.trial import FrozenTrial
from sqlalchemy import Connection, text

from hms_tune.database.tables import SCHEMA

# Optuna numbers trials under this lock, in the order of their ids.
_LOCK = text("SELECT 1 FROM studies WHERE study_id = :study FOR UPDATE")

# Where nobody deleted a trial, the number is the count of trials, as Optuna has it. A deleted one's is not
# given again: records, predictions and checkpoints are kept by it.
_INSERT = text(f"""
    WITH made AS (
        INSERT INTO trials (number, study_id, state, datetime_start)
        SELECT coalesce(1 + greatest(
            (SELECT max(number) FROM trials WHERE study_id = :study),
            (SELECT max(number) FROM {SCHEMA}.attempts WHERE study_id = :study)
        ), 0), :study, 'RUNNING', timezone('UTC', clock_timestamp())
        RETURNING trial_id, number
    ), params AS (
        INSERT INTO trial_params (trial_id, param_name, param_value, distribution_json)
        SELECT trial_id, each.name, each.value, each.distribution FROM made, unnest(
            CAST(:names AS text[]), CAST(:params AS double precision[]), CAST(:distributions AS text[])
        ) AS each (name, value, distribution)
    ), user_attributes AS (
        INSERT INTO trial_user_attributes (trial_id, key, value_json)
        SELECT trial_id, each.key, each.value FROM made, unnest(
            CAST(:user_keys AS text[]), CAST(:user_values AS text[])
        ) AS each (key, value)
        UNION ALL SELECT trial_id, :key, coalesce(CAST(:trial AS integer), number)::text FROM made
    ), system_attributes AS (
        INSERT INTO trial_system_attributes (trial_id, key, value_json)
        SELECT trial_id, each.key, each.value FROM made, unnest(
            CAST(:system_keys AS text[]), CAST(:system_values AS text[])
        ) AS each (key, value)
    )
    SELECT trial_id, number FROM made
""")

_TAKE_WAITING = text("""
    UPDATE trials SET state = 'RUNNING', datetime_start = timezone('UTC', clock_timestamp())
    WHERE trial_id = (
        SELECT trial_id FROM trials WHERE study_id = :study AND state = 'WAITING'
        ORDER BY trial_id LIMIT 1 FOR UPDATE SKIP LOCKED
    ) RETURNING trial_id, number
""")

_USER_ATTRIBUTES = text("""
    INSERT INTO trial_user_attributes (trial_id, key, value_json)
    SELECT :made, each.key, each.value
    FROM unnest(CAST(:user_keys AS text[]), CAST(:user_values AS text[])) AS each (key, value)
    ON CONFLICT (trial_id, key) DO UPDATE SET value_json = excluded.value_json
""")


@dataclass(frozen=True, slots=True)
class MadeTrial:
    """An Optuna trial that the transaction has made (``is_new``) or taken, with a number of its own."""

    optuna_trial_id: int
    number: int
    is_new: bool = False


def insert_trial(
    connection: Connection, study_id: int, template: FrozenTrial, *, numbered: str, number: int | None
) -> MadeTrial:
    """Make a running trial with a template's values and attributes, which begins now.

    Parameters
    ----------
    numbered : user attribute that gets ``number``, or the new trial's own number if that is None

    Raises
    ------
    KeyError
        If there is no such study.
    """
    if connection.execute(_LOCK, {"study": study_id}).first() is None:
        raise KeyError(f"no study {study_id}")
    distributions = template.distributions
    row = connection.execute(
        _INSERT,
        {
            "study": study_id,
            "names": list(distributions),
            "params": [each.to_internal_repr(template.params[key]) for key, each in distributions.items()],
            "distributions": [distribution_to_json(each) for each in distributions.values()],
            "key": numbered,
            "trial": number,
            **_columns("user", template.user_attrs),
            **_columns("system", template.system_attrs),
        },
    ).one()
    return MadeTrial(row.trial_id, row.number, is_new=True)


def take_waiting_trial(
    connection: Connection, study_id: int, attributes: dict[str, Any], *, numbered: str
) -> MadeTrial | None:
    """Let the oldest trial that waits run, with these user attributes and its own number as ``numbered``."""
    row = connection.execute(_TAKE_WAITING, {"study": study_id}).one_or_none()
    if row is None:
        return None
    columns = _columns("user", attributes | {numbered: row.number})
    connection.execute(_USER_ATTRIBUTES, {"made": row.trial_id, **columns})
    return MadeTrial(row.trial_id, row.number)


def _columns(kind: str, attributes: dict[str, Any]) -> dict[str, list[str]]:
    values = [json.dumps(value) for value in attributes.values()]
    return {f"{kind}_keys": list(attributes), f"{kind}_values": values}
