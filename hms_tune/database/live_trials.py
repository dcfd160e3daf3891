"""What is written to an Optuna trial that has not ended, each in one statement.

The row of the trial is locked meanwhile: who ends it waits, or has ended it, and then nothing is written.
What stands there already is not written again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optuna.trial import TrialState
from sqlalchemy import Connection, Row, TextClause, text

from hms_tune.database.tables import SCHEMA
from hms_tune.search.optuna_private import models

_LIVE = """
    WITH live AS (
        SELECT trial_id FROM trials WHERE trial_id = :trial AND state NOT IN ('COMPLETE', 'PRUNED', 'FAIL')
        FOR UPDATE
    ), """
_WRITTEN = " SELECT 1 FROM live"
_REPORTS = """reports AS (
        INSERT INTO trial_intermediate_values AS old
            (trial_id, step, intermediate_value, intermediate_value_type)
        SELECT trial_id, each.step, each.value, CAST(each.kind AS trialintermediatevaluetype)
        FROM live, unnest(
            CAST(:steps AS integer[]), CAST(:reported AS double precision[]), CAST(:kinds AS text[])
        ) AS each (step, value, kind)
        ON CONFLICT (trial_id, step) DO UPDATE SET
            intermediate_value = excluded.intermediate_value,
            intermediate_value_type = excluded.intermediate_value_type
        WHERE (old.intermediate_value, old.intermediate_value_type)
            IS DISTINCT FROM (excluded.intermediate_value, excluded.intermediate_value_type)
    )"""
_WRITE_REPORTS = text(_LIVE + _REPORTS + _WRITTEN)
_HELD = "lease_id = :lease AND token IS NOT DISTINCT FROM :token AND ended_at IS NULL"
# A lease that is locked is just being told its result, or ended.
_WRITE_REPORTS_OF_LEASE = text(f"""
    WITH live AS (
        SELECT trial_id FROM trials WHERE trial_id = :trial AND state NOT IN ('COMPLETE', 'PRUNED', 'FAIL')
        AND EXISTS (SELECT FROM {SCHEMA}.attempts WHERE {_HELD}) FOR UPDATE
    ), {_REPORTS}, renewed AS (
        UPDATE {SCHEMA}.attempts SET expires_at = clock_timestamp() + make_interval(secs => :lease_s)
        WHERE lease_id = (
            SELECT lease_id FROM {SCHEMA}.attempts WHERE {_HELD}
              AND expires_at < clock_timestamp() + make_interval(secs => :lease_s - :every_s)
            FOR UPDATE SKIP LOCKED
        ) RETURNING lease_id
    )
    SELECT EXISTS (SELECT FROM live) AS live, EXISTS (SELECT FROM renewed) AS renewed,
           attempts.ended_at IS NULL AS held, studies.state AS study, trials.requested AS of_trial,
           workers.requested AS of_worker
    FROM {SCHEMA}.attempts
    JOIN {SCHEMA}.studies USING (study_id)
    JOIN {SCHEMA}.trials ON trials.trial_id = attempts.trial_id
    LEFT JOIN {SCHEMA}.workers ON workers.worker_id = attempts.worker_id
    WHERE attempts.lease_id = :lease AND attempts.token IS NOT DISTINCT FROM :token
""")
_PARAMS = """params AS (
        INSERT INTO trial_params (trial_id, param_name, param_value, distribution_json)
        SELECT trial_id, each.name, each.value, each.distribution FROM live, unnest(
            CAST(:names AS text[]), CAST(:drawn AS double precision[]), CAST(:distributions AS text[])
        ) AS each (name, value, distribution)
        ON CONFLICT (trial_id, param_name) DO NOTHING
    ), """
_ATTRIBUTES = """attributes AS (
        INSERT INTO {} AS old (trial_id, key, value_json)
        SELECT trial_id, each.key, each.value
        FROM live, unnest(CAST(:keys AS text[]), CAST(:values AS text[])) AS each (key, value)
        ON CONFLICT (trial_id, key) DO UPDATE SET value_json = excluded.value_json
        WHERE old.value_json <> excluded.value_json
    )"""
_USER_ATTRIBUTES = text(
    _LIVE + _PARAMS + _REPORTS + ", " + _ATTRIBUTES.format("trial_user_attributes") + _WRITTEN
)
_SYSTEM_ATTRIBUTES = text(_LIVE + _ATTRIBUTES.format("trial_system_attributes") + _WRITTEN)
_END = text(f"""{_LIVE} told AS (
        INSERT INTO trial_values (trial_id, objective, value, value_type)
        SELECT trial_id, each.place - 1, each.value, CAST(each.kind AS trialvaluetype)
        FROM live, unnest(CAST(:stored AS double precision[]), CAST(:kinds AS text[]))
            WITH ORDINALITY AS each (value, kind, place)
        ON CONFLICT (trial_id, objective) DO UPDATE SET
            value = excluded.value, value_type = excluded.value_type
    ), ended AS (
        UPDATE trials SET state = CAST(:state AS trialstate),
            datetime_complete = timezone('UTC', clock_timestamp())
        FROM live WHERE trials.trial_id = live.trial_id
    ) {_WRITTEN}""")


@dataclass(frozen=True, slots=True)
class Renewal:
    """A lease that is renewed with the reports of its trial, at most every ``every_s`` seconds.

    ``heard`` is told what the database said of the lease (None: it is gone, with its study or by a backup
    that was restored), and when, by ``clock``, it was asked.
    """

    lease_id: int
    token: str | None
    lease_s: float
    every_s: float
    clock: Callable[[], float]
    heard: Callable[[Row[Any] | None, float], None]


def write_reports(
    connection: Connection, trial_id: int, reports: Mapping[int, float], renewal: Renewal | None = None
) -> bool:
    """Write reports, by their steps; returns whether the trial is live."""
    given = {"trial": trial_id} | _reports_as_columns(reports)
    if renewal is None:
        return _wrote(connection, _WRITE_REPORTS, given)
    given |= {"lease": renewal.lease_id, "token": renewal.token}
    given |= {"lease_s": renewal.lease_s, "every_s": renewal.every_s}
    asked_at = renewal.clock()
    row = connection.execute(_WRITE_REPORTS_OF_LEASE, given).one_or_none()
    renewal.heard(row, asked_at)
    return row is not None and bool(row.live)


def write_user_attributes(
    connection: Connection,
    trial_id: int,
    attributes: Mapping[str, Any],
    drawn: Mapping[str, tuple[float, str]],
    reports: Mapping[int, float],
) -> bool:
    """Write user attributes, parameters as Optuna stores them, and reports by their steps.

    Returns whether the trial is live.
    """
    values = {
        "trial": trial_id,
        "names": list(drawn),
        "drawn": [value for value, _ in drawn.values()],
        "distributions": [told for _, told in drawn.values()],
    }
    values |= _reports_as_columns(reports)
    return _wrote(connection, _USER_ATTRIBUTES, values | _as_columns(attributes))


def write_system_attribute(connection: Connection, trial_id: int, key: str, value: Any) -> bool:
    """Write a system attribute; returns whether the trial is live."""
    return _wrote(connection, _SYSTEM_ATTRIBUTES, {"trial": trial_id} | _as_columns({key: value}))


def end_trial(connection: Connection, trial_id: int, state: TrialState, values: Sequence[float]) -> bool:
    """End a trial now, by the database's clock; returns whether it was live."""
    stored = [models.TrialValueModel.value_to_stored_repr(value) for value in values]
    told = {"stored": [each for each, _ in stored], "kinds": [kind.name for _, kind in stored]}
    return _wrote(connection, _END, {"trial": trial_id, "state": state.name} | told)


def _wrote(connection: Connection, statement: TextClause, values: dict[str, Any]) -> bool:
    return connection.execute(statement, values).first() is not None


def _reports_as_columns(reports: Mapping[int, float]) -> dict[str, Any]:
    to_stored = models.TrialIntermediateValueModel.intermediate_value_to_stored_repr
    stored = [to_stored(value) for value in reports.values()]
    return {
        "steps": list(reports),
        "reported": [each for each, _ in stored],
        "kinds": [kind.name for _, kind in stored],
    }


def _as_columns(attributes: Mapping[str, Any]) -> dict[str, Any]:
    return {"keys": list(attributes), "values": [json.dumps(value) for value in attributes.values()]}
