"""One place on a device where trials run one after another.

::

    recover the trials of dead workers   database/queue/recovery.py
    claim a trial                        database/queue/claim.py
    run it                               worker/attempt.py
    remove what nobody needs any more    worker/checkpoint_store/checkpoints.py
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import select

from hms_tune.database.connect import Storage
from hms_tune.database.queue.claim import Refusal, claim
from hms_tune.database.queue.lease import LEASE_S, Holder, Lease, LeaseKeeper, seconds_awake_or_asleep
from hms_tune.database.queue.recovery import MOST_LOSSES, recover
from hms_tune.database.tables import lineages
from hms_tune.errors import LeaseLostError, StorageAwayError
from hms_tune.training.observer import Observer
from hms_tune.worker.attempt import Admit, Runner, Train, admit_all
from hms_tune.worker.checkpoint_store.checkpoints import Artifacts
from hms_tune.worker.open_study import Search
from hms_tune.worker.results import Streaks
from hms_tune.worker.stop import Stop

_logger = logging.getLogger(__name__)

ENDED = ("complete", "pruned", "failed")
"""How a trial is over; a declined one is drawn again, others go on."""


@dataclass(frozen=True, slots=True)
class SlotSettings:
    """How a slot keeps time.

    ``lease_s``: how long a lease lasts without renewal; ``poll_s``: how often an idle slot looks for work;
    ``look_s``: how old a running slot's knowledge of the study's wanted state may be; ``worker_most``: most
    trials of the worker, over all its slots; ``most_losses``: a trial that took this many workers with it is
    set aside.
    """

    lease_s: float = LEASE_S
    poll_s: float = 2.0
    look_s: float = 2.0
    worker_most: int | None = None
    most_losses: int = MOST_LOSSES


class Slot:
    """Runs trials until there are none left, or it is asked to stop.

    Parameters
    ----------
    train : how a configuration is evaluated; tests put a fake here
    admit : refuses a configuration that the device has no room for, before anybody hears of the trial
    """

    def __init__(
        self,
        storage: Storage,
        search: Search,
        holder: Holder,
        *,
        train: Train,
        artifacts: Artifacts,
        admit: Admit = admit_all,
        observers: Sequence[Observer] = (),
        stop: Stop | None = None,
        settings: SlotSettings | None = None,
    ) -> None:
        self.storage = storage
        self.search = search
        self.holder = holder
        self.artifacts = artifacts
        self.stop = stop or Stop()
        self.settings = settings or SlotSettings()
        self._runner = Runner(
            storage,
            search,
            holder,
            train=train,
            admit=admit,
            artifacts=artifacts,
            observers=observers,
            stop=self.stop,
            look_s=self.settings.look_s,
        )
        self._streaks = Streaks(search.study.study_name, holder.slot)
        self._asked_at = float("-inf")
        storage.patience.hurried = lambda: self.stop.requested
        self._said: Refusal | None = None

    def run(self) -> int:
        """Run trials; returns how many ended here (complete, pruned or failed).

        Raises
        ------
        TrainingError
            After three failed trials in a row.
        MemoryPlanError
            After twenty declined draws in a row.
        StorageAwayError
            If the database stayed away for too long.
        RankLostError
            After a trial was handed back because another of its ranks is gone.
        ArtifactError
            If the checkpoints of a trial that is to go on stayed out of reach.
        """
        ended = 0
        while not self.stop.requested:
            try:
                claimed = self._next()
                if isinstance(claimed, Refusal):
                    if not self._wait(claimed):
                        break
                    continue
                self._said = None
                ended += self._run_lease(claimed)
            except StorageAwayError as error:
                if not self.stop.wait(0.0):
                    raise
                _logger.warning("%s: nothing could be handed back; leases end by themselves", error.what)
        return ended

    def _next(self) -> Lease | Refusal:
        self.storage.through_outages(self._recover)
        self._asked_at = seconds_awake_or_asleep()
        token = uuid.uuid4().hex
        return self.storage.through_outages(lambda: self._claim(token))

    def _recover(self) -> None:
        most = self.settings.most_losses
        for recovered in recover(self.storage, self.search.study_id, self.holder.process, most_losses=most):
            _logger.warning(
                "Trial %s lost its worker; %s",
                "?" if recovered.number is None else recovered.number,
                recovered.result.reason if recovered.set_aside else "it goes on as a new attempt",
            )

    def _claim(self, token: str) -> Lease | Refusal:
        return claim(
            self.storage,
            self.search.study_id,
            self.holder,
            lease_s=self.settings.lease_s,
            worker_most=self.settings.worker_most,
            token=token,
        )

    def _wait(self, refusal: Refusal) -> bool:
        """Wait where waiting helps, saying so once; False when the slot is done."""
        if refusal is not self._said:
            _logger.info("Slot %s: %s", self.holder.slot, refusal.value)
            self._said = refusal
        if refusal not in (Refusal.PAUSED, Refusal.OTHERS_RUNNING):
            return False
        self.stop.wait(self.settings.poll_s)
        return True

    def _run_lease(self, lease: Lease) -> bool:
        """Run one attempt; returns whether its trial ended here."""
        lease_s = self.settings.lease_s
        with LeaseKeeper(self.storage, lease, lease_s=lease_s, granted_at=self._asked_at) as keeper:
            try:
                attempt = self._runner.ask(lease)
                result = self._runner.run(attempt, keeper)
                if result.ending in ENDED:
                    self.storage.through_outages(self._tidy)
            except LeaseLostError as error:
                _logger.warning("%s", error)
                return False
        if self._runner.fatal is not None:
            raise self._runner.fatal
        self._streaks.count(result)
        return result.ending in ENDED

    def _tidy(self) -> None:
        """Remove the checkpoints of every trial that has ended, save the best one's."""
        present = self.artifacts.present()
        if not present:
            return
        with self.storage.engine.connect() as connection:
            ended = connection.execute(
                select(lineages.c.first_number, lineages.c.last_trial_id).where(
                    lineages.c.study_id == self.search.study_id,
                    lineages.c.state == "ended",
                    lineages.c.first_number.in_(present),
                )
            ).all()
        try:
            best: int | None = self.storage.optuna.get_best_trial(self.search.study_id)._trial_id
        except ValueError:  # none is complete
            best = None
        self.artifacts.remove([row.first_number for row in ended if row.last_trial_id != best])
