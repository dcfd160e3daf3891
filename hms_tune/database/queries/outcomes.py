"""What became of each trial of a study, in a few columns, read page by page: of ten thousand trials, too."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from optuna.trial import TrialState as OptunaState
from sqlalchemy import Connection, Row, text

from hms_tune.database.optuna_trial import state_by_both
from hms_tune.database.tables import SCHEMA
from hms_tune.database.trial_reader import NOT_FINITE
from hms_tune.trial_state import REQUEUED_OR_LOST, AttemptState, TrialState, label

READ_AT_ONCE = 1000
"""Trials of a study of any length that are in memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One trial as its last attempt left it. ``trial`` and ``attempt`` are numbers, the other is an id.

    Attributes
    ----------
    value : the score of a complete one
    step, reported : what one that was pruned reported last
    host, slots : where the last attempt was, and the trial's slots on that host; None: a script added it
    gpus : the share of a GPU that the slot had, 0 on a CPU
    peak_memory : bytes
    began_at, ended_at : of all attempts; one that runs ends at its beginning
    over_at : when the last attempt ended
    seconds : of all attempts
    folds, epochs : how many it began and trained
    epoch_seconds : median of the epochs of a pruned one
    plan : of a pruned one, what of its configuration tells how many epochs it would have had, as JSON
    """

    optuna_trial_id: int
    trial: int
    attempt: int
    state: AttemptState
    value: float | None
    step: int | None
    reported: float | None
    host: str | None
    slots: tuple[str, ...]
    device_name: str | None
    gpus: float
    peak_memory: int | None
    data_digest: str | None
    version: str | None
    began_at: datetime | None
    ended_at: datetime | None
    over_at: datetime | None
    seconds: float
    folds: int
    epochs: int
    epoch_seconds: float | None
    plan: str | None

    @property
    def name(self) -> str:
        """``trial 5``, or ``trial 5 (attempt 12)``."""
        return f"trial {label(self.trial, self.attempt)}"

    @property
    def cost(self) -> float:
        """GPU-seconds, or slot-seconds on a CPU."""
        return self.seconds * (self.gpus or 1.0)


# Only a trial's last attempt is looked at. What has no configuration or no folds may have a null of JSON's,
# and what another program loaded may have anything.
_PAGE = text(f"""
    WITH page AS MATERIALIZED (
        SELECT t.trial_id, t.number, t.state::text AS state, a.trial_id AS ours, a.state AS attempt_state,
               a.host, a.ended_at AS over_at, mine.number AS trial, mine.state AS trial_state,
               a.lease_id IS NULL OR mine.last_optuna_trial_id = t.trial_id AS is_last,
               t.state = 'PRUNED' OR mine.state = 'pruned' AS pruned
        FROM trials t
        LEFT JOIN {SCHEMA}.attempts a ON a.optuna_trial_id = t.trial_id
        LEFT JOIN {SCHEMA}.trials mine ON mine.trial_id = a.trial_id
        WHERE t.study_id = :study AND t.trial_id > :after ORDER BY t.trial_id LIMIT :most
    )
    SELECT page.*, v.value, v.value_type::text AS value_type, r.step, r.reported,
           record.device_name, coalesce(record.gpus, 0) AS gpus, record.peak_memory, record.data_digest,
           record.version, spent.*, trained.*, priced.epoch_seconds,
           CASE WHEN page.pruned AND jsonb_typeof(record.config) = 'object' THEN jsonb_strip_nulls(
               jsonb_build_object('data', record.config -> 'data', 'training', jsonb_build_object(
                   'epochs', record.config #> '{{training,epochs}}',
                   'second_stage', record.config #> '{{training,second_stage}}')))::text END AS plan
    FROM page
    LEFT JOIN trial_values v
        ON v.trial_id = page.trial_id AND v.objective = 0 AND page.state = 'COMPLETE'
    LEFT JOIN LATERAL (
        SELECT step, intermediate_value AS reported FROM trial_intermediate_values
        WHERE trial_id = page.trial_id AND page.pruned ORDER BY step DESC LIMIT 1
    ) r ON true
    LEFT JOIN {SCHEMA}.attempt_records record
        ON record.study_id = :study AND record.number = page.number AND page.is_last
    CROSS JOIN LATERAL (
        SELECT min(claimed_at) AS began_at, max(coalesce(ended_at, claimed_at)) AS ended_at,
               coalesce(extract(epoch FROM sum(coalesce(ended_at, clock_timestamp()) - claimed_at)), 0)::float8
                   AS seconds,
               array_agg(DISTINCT slot) FILTER (WHERE host = page.host) AS slots
        FROM {SCHEMA}.attempts WHERE trial_id = page.ours AND number IS NOT NULL AND page.is_last
    ) spent
    CROSS JOIN LATERAL (
        SELECT count(*) AS folds, coalesce(sum(jsonb_array_length(epochs)), 0) AS epochs
        FROM jsonb_array_elements(CASE WHEN jsonb_typeof(record.folds) = 'array' THEN record.folds END)
                 fold (told),
             LATERAL (SELECT CASE WHEN jsonb_typeof(told #> '{{curves,epoch}}') = 'array'
                             THEN told #> '{{curves,epoch}}' END) curve (epochs)
    ) trained
    CROSS JOIN LATERAL (
        SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY CASE WHEN jsonb_typeof(took) = 'number'
                   THEN least(greatest(took::numeric, 0), 1e9)::float8 END) AS epoch_seconds
        FROM jsonb_array_elements(CASE WHEN page.pruned AND jsonb_typeof(record.folds) = 'array'
                                  THEN record.folds END) fold (told),
             jsonb_array_elements(CASE WHEN jsonb_typeof(told #> '{{curves,seconds}}') = 'array'
                                  THEN told #> '{{curves,seconds}}' END) epoch (took)
    ) priced
    ORDER BY page.trial_id
""")


def outcomes(connection: Connection, study_id: int) -> Iterator[Outcome]:
    """What became of each trial of a study, in their order.

    A trial that waits for its next attempt is none of them. Each page is as the study is when it is read.
    """
    after = -1
    while True:
        asked = {"study": study_id, "after": after, "most": READ_AT_ONCE}
        rows = connection.execute(_PAGE, asked).all()
        for row in rows:
            if row.is_last and (state := _state(row)) not in REQUEUED_OR_LOST:
                yield _outcome(row, state)
        if len(rows) < READ_AT_ONCE:
            return
        after = rows[-1].trial_id


def _state(row: Row[Any]) -> AttemptState:
    """That of the trial once it is over: a trial may fail or be given up after its last attempt has ended."""
    if row.trial_state is not None and TrialState(row.trial_state).is_final:
        return AttemptState(row.trial_state)
    ours = None if row.attempt_state is None else AttemptState(row.attempt_state)
    return state_by_both(OptunaState[row.state], ours)


def _outcome(row: Row[Any], state: AttemptState) -> Outcome:
    value = NOT_FINITE.get(row.value_type, row.value) if state is AttemptState.COMPLETE else None
    return Outcome(
        optuna_trial_id=row.trial_id,
        trial=row.number if row.trial is None else row.trial,
        attempt=row.number,
        state=state,
        value=value,
        step=row.step,
        reported=row.reported,
        host=row.host,
        slots=tuple(row.slots or ()),
        device_name=row.device_name,
        gpus=row.gpus,
        peak_memory=row.peak_memory,
        data_digest=row.data_digest,
        version=row.version,
        began_at=row.began_at,
        ended_at=row.ended_at,
        over_at=row.over_at,
        seconds=row.seconds,
        folds=row.folds,
        epochs=row.epochs,
        epoch_seconds=row.epoch_seconds,
        plan=row.plan,
    )
