"""A slot of this process on a real database."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hms_tune.database.connect import Storage
from hms_tune.database.queue.lease import Holder
from hms_tune.database.queue.recovery import MOST_LOSSES
from hms_tune.database.queue.study_queue import StudyQueue
from hms_tune.machine.processes import this_process
from hms_tune.training.events import Event
from hms_tune.training.observer import TrialInfo
from hms_tune.trial_state import AttemptState
from hms_tune.worker.attempt import SlotSetup, Train
from hms_tune.worker.checkpoint_store.checkpoints import Artifacts
from hms_tune.worker.open_study import Search
from hms_tune.worker.slot import Slot
from hms_tune.worker.stop import Stop


def a_slot(
    storage: Storage,
    search: Search,
    train: Train,
    artifacts: Path | Artifacts,
    *,
    worker: str = "worker",
    name: str = "cpu",
    lease_s: float = 60.0,
    most_losses: int = MOST_LOSSES,
    **setup: Any,
) -> Slot:
    """A slot that looks for work often.

    Parameters
    ----------
    artifacts : the study's, or the folder of its checkpoints
    setup : fields of :class:`~hms_tune.worker.attempt.SlotSetup`
    """
    if isinstance(artifacts, Path):
        scratch = artifacts.parent / f"{artifacts.name}-scratch"
        artifacts = Artifacts.at(artifacts, scratch, search.study.study_name)
    holder = Holder(worker, name, this_process())
    queue = StudyQueue(
        storage,
        search.study,
        search.study_id,
        holder,
        lease_s=lease_s,
        most_losses=most_losses,
        promotion=search.promotion,
    )
    pace = {"poll_s": 0.02, "look_s": 0.0} | setup
    return Slot(SlotSetup(queue, search, train=train, artifacts=artifacts, **pace))


class StopAfter:
    """Asks a slot to stop once so many attempts have ended."""

    def __init__(self, attempts: int) -> None:
        self.stop = Stop()
        self._left = attempts

    def trial_started(self, trial: TrialInfo) -> None: ...

    def event(self, trial: TrialInfo, event: Event) -> None: ...

    def trial_ended(
        self, trial: TrialInfo, state: AttemptState, value: float | None, reason: str | None
    ) -> None:
        self._left -= 1
        if not self._left:
            self.stop.request()

    def close(self) -> None: ...
