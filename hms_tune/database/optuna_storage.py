"""Optuna's storage, of which each read and each repeatable write waits for an absent database to return.

Creating a trial and ending one are not here: repeated, they would do it twice.
:mod:`~hms_tune.database.queue.end` guards those.

What is written to a trial is written under the lock of its row. Optuna looks at the trial's state and then
writes: a worker that falls asleep in between would write to a trial that recovery has ended meanwhile.

Optuna dates the start and the end of a trial by the clock of whoever writes. Here it is the database's, so
that a fleet with wrong clocks shows no trial that ended before it began.
"""

from __future__ import annotations

import copy
import functools
import json
import threading
from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC
from typing import Any, Concatenate, ParamSpec, TypeVar

from optuna.distributions import (
    BaseDistribution,
    check_distribution_compatibility,
    distribution_to_json,
)
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import Connection, TextClause, event, inspect, select, text
from sqlalchemy.orm import Session

from hms_tune.database.connection.retry import Patience, through_outages
from hms_tune.database.tables import now
from hms_tune.database.trial_reader import read_trial, read_trials
from hms_tune.search.optuna_private import CachedStorage, database_session, models

P = ParamSpec("P")
R = TypeVar("R")


def _patiently(
    method: Callable[Concatenate[Any, P], R],
) -> Callable[Concatenate[Any, P], R]:
    @functools.wraps(method)
    def waiting(self: Any, /, *arguments: P.args, **keywords: P.kwargs) -> R:
        return through_outages(lambda: method(self, *arguments, **keywords), patience=self.patience)

    return waiting


class PatientStorage(RDBStorage):
    """An :class:`optuna.storages.RDBStorage` that outlives outages.

    Writing a value twice leaves it as writing it once, for each method here.

    Attributes
    ----------
    shared : this storage with a memory of finished trials, for all of the process; sampler, pruner and
        records would else each read whole studies
    """

    def __init__(self, *arguments: Any, patience: Patience | None = None, **keywords: Any) -> None:
        self.patience = patience or Patience()
        super().__init__(*arguments, **keywords)
        self.shared = _SharedStorage(self)
        self._reading = threading.local()
        self._drawn: dict[int, dict[str, tuple[float, str]]] = {}
        event.listen(self.scoped_session, "before_flush", _date_by_the_database)

    get_study_id_from_name = _patiently(RDBStorage.get_study_id_from_name)
    get_study_name_from_id = _patiently(RDBStorage.get_study_name_from_id)
    get_study_directions = _patiently(RDBStorage.get_study_directions)
    get_study_user_attrs = _patiently(RDBStorage.get_study_user_attrs)
    get_study_system_attrs = _patiently(RDBStorage.get_study_system_attrs)

    @_patiently
    def get_trial(self, trial_id: int) -> FrozenTrial:
        """One trial, in one statement."""
        with self.statements() as connection:
            return read_trial(connection, trial_id)

    @_patiently
    def _get_trials(
        self,
        study_id: int,
        states: Container[TrialState] | None,
        included_trial_ids: set[int],
        trial_id_greater_than: int,
    ) -> list[FrozenTrial]:
        """A study's trials, in one statement."""
        asked = None if states is None else [state for state in TrialState if state in states]
        with self.statements() as connection:
            return read_trials(
                connection,
                study_id,
                states=asked,
                included=included_trial_ids,
                after=trial_id_greater_than,
                whole=not getattr(self._reading, "ended", False),
            )

    @contextmanager
    def reading_ended(self) -> Iterator[None]:
        """During the block, this thread reads of trials that have not ended no more than their states."""
        self._reading.ended = True
        try:
            yield
        finally:
            self._reading.ended = False

    @contextmanager
    def statements(self) -> Iterator[Connection]:
        """A connection on which each statement is a transaction: neither BEGIN nor COMMIT is sent."""
        with self.engine.connect() as connection:
            yield connection.execution_options(isolation_level="AUTOCOMMIT")

    get_trial_user_attrs = _patiently(RDBStorage.get_trial_user_attrs)
    get_trial_system_attrs = _patiently(RDBStorage.get_trial_system_attrs)
    get_trial_id_from_study_id_trial_number = _patiently(RDBStorage.get_trial_id_from_study_id_trial_number)
    _get_best_trial_id = _patiently(RDBStorage._get_best_trial_id)
    set_study_user_attr = _patiently(RDBStorage.set_study_user_attr)
    set_study_system_attr = _patiently(RDBStorage.set_study_system_attr)

    @_patiently
    def set_trial_intermediate_value(self, trial_id: int, step: int, intermediate_value: float) -> None:
        """Write a report, if the trial has not ended."""
        stored, kind = models.TrialIntermediateValueModel.intermediate_value_to_stored_repr(
            intermediate_value
        )
        report = {"step": step, "stored": stored, "kind": kind.name}
        self._write(trial_id, _REPORT, report)

    def keep_drawn(self, trial_id: int) -> None:
        """Keep what is drawn for a trial from now on until its next attributes are written, with them."""
        self._drawn[trial_id] = {}

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Write an attribute, if the trial has not ended."""
        self.set_trial_user_attrs(trial_id, {key: value})

    @_patiently
    def set_trial_user_attrs(self, trial_id: int, attributes: Mapping[str, Any]) -> None:
        """Write attributes together, and the values that were kept, if the trial has not ended."""
        drawn = self._drawn.get(trial_id, {})
        values = {
            "names": list(drawn),
            "drawn": [value for value, _ in drawn.values()],
            "distributions": [told for _, told in drawn.values()],
        }
        self._write(trial_id, _USER_ATTRIBUTES, _as_columns(attributes) | values)
        self._drawn.pop(trial_id, None)

    @_patiently
    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Write a system attribute, if the trial has not ended."""
        self._write(trial_id, _SYSTEM_ATTRIBUTES, _as_columns({key: value}))

    def _set_trial_param(
        self,
        trial_id: int,
        param_name: str,
        param_value_internal: float,
        distribution: BaseDistribution,
        previous_distribution: BaseDistribution | None,
    ) -> None:
        if previous_distribution is not None:
            check_distribution_compatibility(previous_distribution, distribution)
        if trial_id in self._drawn:  # of a study whose space was compared when this process joined it
            self._drawn[trial_id][param_name] = (param_value_internal, distribution_to_json(distribution))
        else:
            self._write_param(trial_id, param_name, param_value_internal, distribution)

    @_patiently
    def _write_param(
        self, trial_id: int, name: str, value_internal: float, distribution: BaseDistribution
    ) -> None:
        with database_session(self.scoped_session, True) as session:
            models.TrialModel.find_or_raise_by_id(trial_id, session, for_update=True)
            self._set_trial_param_without_commit(session, trial_id, name, value_internal, distribution, None)

    def _write(self, trial_id: int, statement: TextClause, values: dict[str, Any]) -> None:
        """Run a statement that writes nothing to a trial that has ended, and say so."""
        with self.statements() as connection:
            if connection.execute(statement, values | {"trial": trial_id}).first() is None:
                self.check_trial_is_updatable(trial_id, read_trial(connection, trial_id).state)


class _SharedStorage(CachedStorage):
    """Optuna's memory of finished trials.

    It reads all other trials again whenever trials are asked for. Most who ask, the pruner at each report,
    want finished ones alone: then it reads of the others whether they have ended, and gathers finished ones
    only if there are new ones.
    """

    def __init__(self, backend: PatientStorage) -> None:
        super().__init__(backend)
        self._reading_ended = backend.reading_ended
        self._ended: dict[tuple[int, frozenset[TrialState]], list[FrozenTrial]] = {}

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        """A study's trials, by number."""
        if states is None or TrialState.RUNNING in states or TrialState.WAITING in states:
            return super().get_all_trials(study_id, deepcopy, states)
        with self._reading_ended():
            self._read_trials_from_remote_storage(study_id)
        with self._lock:
            key = (study_id, frozenset(state for state in TrialState if state in states))
            if key not in self._ended:
                numbers_and_trials = sorted(self._studies[study_id].trials.items())
                self._ended[key] = [trial for _, trial in numbers_and_trials if trial.state in states]
            trials = self._ended[key]
            return copy.deepcopy(trials) if deepcopy else list(trials)

    def _add_trials_to_cache(self, study_id: int, trials: list[FrozenTrial]) -> None:
        super()._add_trials_to_cache(study_id, trials)
        if any(trial.state.is_finished() for trial in trials):
            self._ended.clear()


# The row of a trial is locked while something is written to it: who ends it waits, or has ended it. What
# stands there already is not written again.
_LIVE = """
    WITH live AS (
        SELECT trial_id FROM trials WHERE trial_id = :trial AND state NOT IN ('COMPLETE', 'PRUNED', 'FAIL')
        FOR UPDATE
    ), """
_WRITTEN = " SELECT 1 FROM live"
_REPORT = text(f"""{_LIVE} report AS (
        INSERT INTO trial_intermediate_values AS old
            (trial_id, step, intermediate_value, intermediate_value_type)
        SELECT trial_id, :step, :stored, CAST(:kind AS trialintermediatevaluetype) FROM live
        ON CONFLICT (trial_id, step) DO UPDATE SET
            intermediate_value = excluded.intermediate_value,
            intermediate_value_type = excluded.intermediate_value_type
        WHERE (old.intermediate_value, old.intermediate_value_type)
            IS DISTINCT FROM (excluded.intermediate_value, excluded.intermediate_value_type)
    ) {_WRITTEN}""")
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
_USER_ATTRIBUTES = text(_LIVE + _PARAMS + _ATTRIBUTES.format("trial_user_attributes") + _WRITTEN)
_SYSTEM_ATTRIBUTES = text(_LIVE + _ATTRIBUTES.format("trial_system_attributes") + _WRITTEN)


def _as_columns(attributes: Mapping[str, Any]) -> dict[str, Any]:
    return {"keys": list(attributes), "values": [json.dumps(value) for value in attributes.values()]}


_DATES = ("_datetime_start_utc", "_datetime_complete_utc")
"""Naive, in UTC."""


def _date_by_the_database(session: Session, _context: object, _instances: object) -> None:
    """Put the database's moment in place of the process's, wherever Optuna dates a trial."""
    for trial in session.dirty:
        if not isinstance(trial, models.TrialModel):
            continue
        changed = [key for key in _DATES if _is_set(trial, key)]
        if changed:
            moment: Any = session.execute(select(now())).scalar_one()
            for key in changed:
                setattr(trial, key, moment.astimezone(UTC).replace(tzinfo=None))


def _is_set(trial: models.TrialModel, key: str) -> bool:
    added: Any = inspect(trial).attrs[key].history.added
    return bool(added) and added[0] is not None
