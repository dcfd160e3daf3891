"""What a running attempt says, event by event: to observers, to the fleet's store, to the database."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hms_tune.database.queue.lease import LeaseKeeper, Wanted
from hms_tune.search.reports import Reporter
from hms_tune.training.events import (
    CheckpointFailed,
    CheckpointWritten,
    EpochEnded,
    Event,
)
from hms_tune.training.observer import Observer
from hms_tune.worker.checkpoint_store.uploads import Uploader
from hms_tune.worker.report_queue import ReportQueue
from hms_tune.worker.results import Story


@dataclass(slots=True)
class Decisions:
    """What the database last said about a running trial."""

    prune: bool = False
    wanted: Wanted = "running"


class Following:
    """Passes on each event of an attempt, and hears what is decided about it.

    While it is in doubt whether the attempt is still ours, nothing leaves this process: observers and the
    store wait, reports queue up.
    """

    def __init__(
        self,
        story: Story,
        keeper: LeaseKeeper,
        reporter: Reporter,
        *,
        observers: Sequence[Observer],
        uploads: Uploader,
        reports: ReportQueue,
        look_s: float,
    ) -> None:
        self._story = story
        self._keeper = keeper
        self._reporter = reporter
        self._observers = observers
        self._uploads = uploads
        self._reports = reports
        self._look_s = look_s
        self._decisions = Decisions()

    def tell(self, event: Event) -> None:
        """Pass an event on to observers and, if it is a checkpoint, to the store."""
        self._story.add(event)
        if isinstance(event, CheckpointWritten):
            self._uploads.offer(event.path)
        if self._keeper.certain:
            self._story.tell(self._observers)

    def ask(self, event: Event) -> Decisions:
        """Report an event, and hear what is decided.

        While the database is away that is what was decided before; the report is delivered later.
        """

        def report() -> None:
            pruned = self._reporter.observe(event)
            self._decisions.prune = self._decisions.prune or pruned
            self._decisions.wanted = self._keeper.desired(fresh_s=self._look_s)

        self._reports.write(report)
        return self._decisions


def resumable(event: Event) -> bool:
    """Whether to stop at this event. Right after an epoch, before its checkpoint, would throw it away."""
    return isinstance(event, CheckpointWritten | CheckpointFailed) or (
        not isinstance(event, EpochEnded) or event.replayed
    )
