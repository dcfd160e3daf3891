"""A worker's look at the whole study, every few seconds: for its terminal, and for people to be told."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from hms_tune.config.study_file import StudyFile
from hms_tune.config.study_sections import Happening
from hms_tune.database import notices
from hms_tune.database.connect import Storage
from hms_tune.database.notices import Notice
from hms_tune.database.queue.claim import gpu_hours_used
from hms_tune.errors import NotificationError
from hms_tune.machine.background import Every
from hms_tune.studies import totals as figures
from hms_tune.studies.totals import Budget
from hms_tune.tracking.notify import events as happenings
from hms_tune.tracking.notify.webhook import Receivers, deliver
from hms_tune.tracking.study_outlook import StudyOutlook

_logger = logging.getLogger(__name__)

LOOK_EVERY_S = 10.0

STEADY_LOOKS = 3
"""Looks in a row, with the database there, before a silent worker counts as lost: an outage silences all."""

LAST_TIMEOUT_S = 3.0
"""A worker that ends waits for its last messages so long."""


@dataclass(slots=True)
class StudyWatch:
    """Looks at a study on behalf of one worker.

    Attributes
    ----------
    shown : is told how the study stands
    receivers : where messages go; without any, none is looked for
    wanted : what is told
    silent_s : a worker that was silent for so long is lost, s
    """

    storage: Storage
    study_id: int
    study: str
    worker_id: str
    shown: Callable[[StudyOutlook], None]
    receivers: Receivers = field(default_factory=Receivers)
    wanted: frozenset[Happening] = frozenset()
    silent_s: float = 180.0
    _looks: int = 0

    @classmethod
    def of(
        cls,
        storage: Storage,
        study_id: int,
        worker_id: str,
        study_file: StudyFile,
        *,
        shown: Callable[[StudyOutlook], None],
        silent_s: float,
    ) -> StudyWatch:
        """The watch that a study file asks for."""
        config = study_file.tracking.notify
        return cls(
            storage,
            study_id,
            study_file.study,
            worker_id,
            shown,
            receivers=Receivers.of(config),
            wanted=frozenset(config.on),
            silent_s=silent_s,
        )

    @contextmanager
    def running(self, every_s: float = LOOK_EVERY_S) -> Iterator[None]:
        """Look from a thread until the block is left, and once more then: the study may have finished."""
        thread = Every(
            every_s,
            lambda: self.look(sleep=thread.sleep),
            name="study-watch",
            at_once=True,
            join_s=2 * LAST_TIMEOUT_S,
        )
        try:
            with thread:
                yield
        finally:
            if not thread.is_running:
                self.look(tries=1, timeout_s=LAST_TIMEOUT_S)

    def look(
        self,
        *,
        tries: int = 3,
        timeout_s: float = 10.0,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        """Look once: show how the study stands, write happenings down, and send what nobody has taken."""
        try:
            with self.storage.engine.begin() as connection:
                budget = figures.budget_of(connection, self.study_id)
                if budget is None:  # the study was deleted
                    return
                outlook = look_at(connection, self.study_id, self.study, budget)
                if self.receivers:
                    notices.lock(connection, self.study_id)
                    for notice in self._happenings(connection, outlook, budget):
                        notices.write(connection, self.study_id, notice)
            self._looks += 1
            self.shown(outlook)
            if self.receivers:
                self._send(tries, timeout_s, sleep)
        except SQLAlchemyError as error:  # the next look tells; a worker never dies of this
            self._looks = 0
            _logger.debug("the study was not looked at: %s", type(error).__name__)

    def _happenings(self, connection: Connection, outlook: StudyOutlook, budget: Budget) -> Iterator[Notice]:
        if "new_best" in self.wanted:
            yield from happenings.new_best(connection, self.study_id, outlook)
        if "budget_nearly_spent" in self.wanted:
            yield from happenings.budget_nearly_spent(connection, self.study_id, outlook, budget)
        if "worker_lost" in self.wanted and self._looks >= STEADY_LOOKS:
            yield from happenings.worker_lost(connection, self.study_id, outlook, silent_s=self.silent_s)
        if "study_finished" in self.wanted:
            yield from happenings.study_finished(connection, self.study_id, outlook, budget)

    def _send(self, tries: int, timeout_s: float, sleep: Callable[[float], object]) -> None:
        while (notice := notices.take(self.storage, self.study_id, self.worker_id)) is not None:
            failure = None
            try:
                deliver(self.receivers, notice.message, tries=tries, timeout_s=timeout_s, sleep=sleep)
            except NotificationError as error:
                failure = str(error)
                _logger.warning("%s was not told: %s", notice.happening.replace("_", " "), failure)
            notices.settle(self.storage, self.study_id, notice, failure=failure)


def look_at(connection: Connection, study_id: int, study: str, budget: Budget) -> StudyOutlook:
    """How a study stands, from a few sums."""
    kinds = figures.trials_by_kind(connection, study_id)
    ended = sum(kinds.get(outcome, 0) for outcome in figures.ENDED)
    speed = figures.speed_of(connection, study_id, age_s=budget.age_s, ended=ended)
    gpu_hours = gpu_hours_used(connection, study_id)
    best = figures.best_value(connection, study_id)
    return StudyOutlook(
        study=study,
        ended=ended,
        budget=budget.trials,
        best=None if best is None else best[1],
        best_trial=None if best is None else best[0],
        per_hour=speed.trials_per_hour,
        left_s=figures.seconds_left(budget, speed, ended=ended, gpu_hours=gpu_hours),
    )
