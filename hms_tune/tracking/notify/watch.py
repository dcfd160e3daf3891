"""A worker's look at the whole study, every few seconds: for its terminal, and for people to be told."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from hms_tune.config.settings import DEFAULT_LEASE_SECONDS
from hms_tune.config.study_file import StudyFile
from hms_tune.config.study_sections import Happening, NotifyConfig
from hms_tune.database.connect import Storage, Transaction
from hms_tune.database.connection.retry import is_of_the_database
from hms_tune.database.locks import lock_outbox
from hms_tune.database.queries import outbox
from hms_tune.database.queries.totals import complete_curves, leader
from hms_tune.database.queries.workers import workers_of_study
from hms_tune.errors import NotificationError
from hms_tune.machine.background import Every
from hms_tune.studies.standing import Standing
from hms_tune.studies.totals import StudyTotals, study_totals
from hms_tune.tracking.notify import events
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
    events : those that people are told of
    silent_s : a worker that was silent for so long is lost, s
    epochs : the most of a fold; 0: estimates are left on their own scale
    """

    storage: Storage
    study_id: int
    study: str
    worker_id: str
    shown: Callable[[StudyOutlook], None]
    receivers: Receivers = field(default_factory=Receivers)
    events: frozenset[Happening] = frozenset()
    silent_s: float = DEFAULT_LEASE_SECONDS
    epochs: int = 0
    _looks: int = 0

    @classmethod
    def of(
        cls,
        storage: Storage,
        study_id: int,
        worker_id: str,
        study_file: StudyFile,
        *,
        notify: NotifyConfig,
        shown: Callable[[StudyOutlook], None],
        silent_s: float,
    ) -> StudyWatch:
        """The watch that a study file asks for.

        Parameters
        ----------
        notify : who is told: of the file that this worker was given, which the database's may follow
        """
        return cls(
            storage,
            study_id,
            study_file.study,
            worker_id,
            shown,
            receivers=Receivers.of(notify),
            events=frozenset(notify.on),
            silent_s=silent_s,
            epochs=study_file.max_epochs,
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
        """Look once: show how the study stands, add messages on events, and send what nobody has taken."""
        try:
            with self.storage.transaction() as connection:
                totals = study_totals(connection, self.study_id)
                if not totals.row.is_joined:  # the study was deleted
                    return
                curves = complete_curves(connection, self.study_id)
                ratios = Standing.of(curves, self.epochs).ratios
                outlook = StudyOutlook.of(self.study, totals, leader(connection, self.study_id), ratios)
                if self.receivers:
                    lock_outbox(connection, self.study_id)
                    for entry in self._entries(connection, outlook, totals):
                        outbox.add_entry(connection, self.study_id, entry)
            self._looks += 1
            self.shown(outlook)
            if self.receivers:
                self._send(tries, timeout_s, sleep)
        except Exception as error:
            if not is_of_the_database(error):
                raise
            self._looks = 0  # the next look tells; a worker never dies of this
            _logger.debug("the study was not looked at: %s", type(error).__name__)

    def _entries(
        self, connection: Transaction, outlook: StudyOutlook, totals: StudyTotals
    ) -> Iterator[outbox.Entry]:
        if "new_best" in self.events:
            yield from events.new_best(outlook, outbox.last_message(connection, self.study_id, "new_best"))
        if "budget_nearly_spent" in self.events:
            yield from events.budget_nearly_spent(outlook, totals)
        if "worker_lost" in self.events and self._looks >= STEADY_LOOKS:
            workers = workers_of_study(connection, self.study_id, seen_within_s=events.FORGOTTEN_S)
            yield from events.workers_lost(outlook, workers, silent_s=self.silent_s)
        if "study_finished" in self.events:
            yield from events.study_finished(outlook, totals)

    def _send(self, tries: int, timeout_s: float, sleep: Callable[[float], object]) -> None:
        while (entry := outbox.take_entry(self.storage, self.study_id, self.worker_id)) is not None:
            try:
                deliver(self.receivers, entry.message, tries=tries, timeout_s=timeout_s, sleep=sleep)
            except NotificationError as error:
                _logger.warning("%s was not told: %s", entry.event.replace("_", " "), error)
                outbox.mark_failed(self.storage, self.study_id, entry, str(error))
            else:
                outbox.mark_sent(self.storage, self.study_id, entry)
