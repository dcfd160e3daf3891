"""Optuna's storage, of which each read and each repeatable write waits for an absent database to return.

Creating a trial and ending one are not here: repeated, they would do it twice.
:mod:`~hms_tune.database.queue.end` guards those.

What is written to a trial is written under the lock of its row, by :mod:`~hms_tune.database.live_trials`.
Optuna looks at the trial's state and then writes: a worker that falls asleep in between would write to a
trial that recovery has ended meanwhile.

Optuna dates the start and the end of a trial by the clock of whoever writes. Here it is the database's, so
that a fleet with wrong clocks shows no trial that ended before it began.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Collection, Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC
from typing import Any, Concatenate, ParamSpec, TypeVar

import psycopg2
from optuna.distributions import (
    BaseDistribution,
    check_distribution_compatibility,
    distribution_to_json,
)
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import Connection, Row, TextClause, event, inspect, select
from sqlalchemy.orm import Session

from hms_tune.database import live_trials
from hms_tune.database.connection.retry import Patience, through_outages
from hms_tune.database.ended_trials import read_ended
from hms_tune.database.live_trials import Renewal
from hms_tune.database.tables import now
from hms_tune.database.trial_memory import TrialMemory
from hms_tune.database.trial_reader import read_trial, read_trials
from hms_tune.search.optuna_private import database_session, models, trial_id_of

P = ParamSpec("P")
R = TypeVar("R")


def _patiently(
    method: Callable[Concatenate[Any, P], R],
) -> Callable[Concatenate[Any, P], R]:
    @functools.wraps(method)
    def waiting(self: Any, /, *arguments: P.args, **keywords: P.kwargs) -> R:
        return through_outages(lambda: method(self, *arguments, **keywords), patience=self.patience)

    return waiting


@dataclass(slots=True)
class _KeptReports:
    """Reports of a running trial, by their steps, that are not written yet."""

    renewal: Renewal
    reports: dict[int, float] = field(default_factory=dict)

    def forget(self, written: Collection[int]) -> None:
        """They are written."""
        for step in written:
            self.reports.pop(step, None)


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
        self.shared = TrialMemory(self)
        self._reading = threading.local()
        self._drawn: dict[int, dict[str, tuple[float, str]]] = {}
        self._kept: dict[int, _KeptReports] = {}
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
        """A study's trials: what has ended all at once, if all are asked for, and the rest one by one."""
        asked = None if states is None else [state for state in TrialState if state in states]
        ended: list[FrozenTrial] = []
        if trial_id_greater_than < 0 and (asked is None or any(map(TrialState.is_finished, asked))):
            ended, included_trial_ids, trial_id_greater_than = read_ended(self._rows, study_id)
        with self.statements() as connection:
            others = read_trials(
                connection,
                study_id,
                states=asked,
                included=included_trial_ids,
                after=trial_id_greater_than,
                whole=not getattr(self._reading, "ended", False),
            )
        of_states = ended if states is None else [trial for trial in ended if trial.state in states]
        return sorted([*of_states, *others], key=trial_id_of)

    @_patiently
    def _rows(self, statement: TextClause, values: Mapping[str, Any]) -> Sequence[Row[Any]]:
        """What a statement finds, in a transaction of its own."""
        with self.statements() as connection:
            return connection.execute(statement, values).all()

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
        """A connection on which each statement is a transaction: neither BEGIN nor COMMIT is sent.

        SQLAlchemy's own AUTOCOMMIT is reset when the connection goes back to its pool; if it breaks there,
        the pool counts it as lent for ever.
        """
        with self.engine.connect() as connection:
            driver: Any = connection.connection.dbapi_connection
            driver.autocommit = True
            try:
                yield connection
            finally:
                try:
                    driver.autocommit = False
                except psycopg2.Error:  # it broke after its last answer; the pool opens another
                    connection.invalidate()

    get_trial_user_attrs = _patiently(RDBStorage.get_trial_user_attrs)
    get_trial_system_attrs = _patiently(RDBStorage.get_trial_system_attrs)
    get_trial_id_from_study_id_trial_number = _patiently(RDBStorage.get_trial_id_from_study_id_trial_number)
    _get_best_trial_id = _patiently(RDBStorage._get_best_trial_id)
    set_study_user_attr = _patiently(RDBStorage.set_study_user_attr)
    set_study_system_attr = _patiently(RDBStorage.set_study_system_attr)

    def set_trial_intermediate_value(self, trial_id: int, step: int, intermediate_value: float) -> None:
        """Write a report, if the trial has not ended; or keep it (:meth:`keeping_reports`)."""
        kept = self._kept.get(trial_id)
        if kept is not None:
            kept.reports[step] = intermediate_value
            return
        self._write(trial_id, lambda to: live_trials.write_reports(to, trial_id, {step: intermediate_value}))

    @contextmanager
    def keeping_reports(self, trial_id: int, renewal: Renewal) -> Iterator[None]:
        """During the block, keep this trial's reports until they are written together.

        That is with :meth:`write_reports`, or with the trial's next attributes. Those that are left at the
        block's end are dropped.

        Parameters
        ----------
        renewal : the lease that :meth:`write_reports` renews
        """
        self._kept[trial_id] = _KeptReports(renewal)
        try:
            yield
        finally:
            del self._kept[trial_id]

    def write_reports(self, trial_id: int) -> None:
        """Write the reports that are kept, if there are any and the trial has not ended; renew its lease."""
        kept = self._kept.get(trial_id)
        if kept is not None and (reports := dict(kept.reports)):
            self._write(trial_id, lambda to: live_trials.write_reports(to, trial_id, reports, kept.renewal))
            kept.forget(reports)

    def keep_drawn(self, trial_id: int) -> None:
        """Keep what is drawn for a trial from now on until its next attributes are written, with them."""
        self._drawn[trial_id] = {}

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Write an attribute, if the trial has not ended."""
        self.set_trial_user_attrs(trial_id, {key: value})

    def set_trial_user_attrs(self, trial_id: int, attributes: Mapping[str, Any]) -> None:
        """Write attributes, values and reports that were kept, all together, if the trial has not ended."""
        drawn, kept = self._drawn.get(trial_id, {}), self._kept.get(trial_id)
        reports = {} if kept is None else dict(kept.reports)
        self._write(
            trial_id,
            lambda to: live_trials.write_user_attributes(to, trial_id, attributes, drawn, reports),
        )
        self._drawn.pop(trial_id, None)
        if kept is not None:
            kept.forget(reports)

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Write a system attribute, if the trial has not ended."""
        self._write(trial_id, lambda to: live_trials.write_system_attribute(to, trial_id, key, value))

    def set_trial_state_values(
        self, trial_id: int, state: TrialState, values: Sequence[float] | None = None
    ) -> bool:
        """End a trial, if it has not ended; or let one that waits run, as Optuna does."""
        if not state.is_finished():
            return super().set_trial_state_values(trial_id, state, values)
        with self.statements() as connection:
            ended = live_trials.end_trial(connection, trial_id, state, values or ())
        if not ended:
            self._check_is_live(trial_id)
        return True

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

    @_patiently
    def _write(self, trial_id: int, write: Callable[[Connection], bool]) -> None:
        """Write something to a trial that has not ended; of one that has, say so."""
        with self.statements() as connection:
            written = write(connection)
        if not written:
            self._check_is_live(trial_id)

    def _check_is_live(self, trial_id: int) -> None:
        with self.statements() as connection:
            self.check_trial_is_updatable(trial_id, read_trial(connection, trial_id).state)


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
