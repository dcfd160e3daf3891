"""How attempts end: what a trial told becomes a result, and results in a row become a verdict."""

from __future__ import annotations

import gc
import logging
import math
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from hms_tune.database.queue.end import STOPPED_BY_A_PERSON, Ending, Result
from hms_tune.database.queue.lease import Wanted
from hms_tune.errors import HmsTuneError, MemoryPlanError, NonFiniteLossError, TrainingError
from hms_tune.search.memory_constraint import MOST_DECLINED
from hms_tune.studies.attempt_state import KL_ALL_ROWS, KL_HIGH_VOTE, SECONDS
from hms_tune.training.events import CrossValidationEnded, EpochEnded, Event
from hms_tune.training.observer import Observer, Outcome, TrialInfo

_logger = logging.getLogger(__name__)

MOST_FAILURES = 3
"""After this many failed trials in a row something other than the hyperparameters is wrong."""

_NOT_TO_BLAME = ("hyperparameters", "person")
"""Causes of failure that say nothing about the machine, the data or the code."""

UNKNOWN_EXCESS = 0.05
"""What a sampler is told of a trial that ran out of memory: by how much, nobody has counted."""

OUTCOMES: dict[Ending, Outcome] = {
    "complete": "complete",
    "pruned": "pruned",
    "failed": "failed",
    "declined": "failed",  # only of a trial that had begun: of others nobody has heard
    "handed_back": "handed_back",
    "lost": "lost",
}
"""What observers are told of an ending."""


@dataclass(slots=True)
class Story:
    """What a running trial has told so far.

    ``trial`` is None until observers have heard of it; ``untold`` is what they have not heard since.
    """

    trial: TrialInfo | None = None
    last: EpochEnded | None = None
    ended: CrossValidationEnded | None = None
    seconds: float = 0.0
    untold: list[Event] = field(default_factory=list)

    def add(self, event: Event) -> None:
        """Take note of an event."""
        self.untold.append(event)
        match event:
            case EpochEnded():
                self.last = event
                self.seconds += event.seconds
            case CrossValidationEnded():
                self.ended = event
            case _:
                pass

    def tell(self, observers: Sequence[Observer]) -> None:
        """Tell observers what they have not heard."""
        untold, self.untold = self.untold, []
        for event in untold:
            for observer in observers:
                if self.trial is not None:
                    observer.event(self.trial, event)


def attributes_of(story: Story) -> dict[str, Any]:
    """What a trial's end leaves beside its value."""
    attributes: dict[str, Any] = {SECONDS: round(story.seconds, 3)}
    if (ended := story.ended) is not None:
        attributes |= {
            KL_ALL_ROWS: ended.kl_all_rows,
            KL_HIGH_VOTE: None if math.isnan(ended.kl_high_vote) else ended.kl_high_vote,
            "fold_kl": list(ended.fold_kl),
            "best_epochs": list(ended.best_epochs),
        }
    return attributes


def failure(error: Exception, trial: TrialInfo | None, *, redraws: bool) -> Result:
    """A failed trial's reason in one line, its traceback beside it, and whether its values are to blame.

    Parameters
    ----------
    redraws : whether another draw takes the place of one that did not fit the device
    """
    attributes: dict[str, Any] = {"traceback": "".join(traceback.format_exception(error))[-8000:]}
    lines = str(error).strip().splitlines()
    reason = (
        str(error)
        if isinstance(error, HmsTuneError)
        else f"{type(error).__name__}: {lines[0] if lines else ''}"
    )
    if type(error).__name__ == "OutOfMemoryError" and trial is not None:
        return Result(
            "declined" if redraws else "failed",
            reason=f"out of device memory at batch size {trial.config.training.batch_size}",
            attributes=attributes | {"cause": "hyperparameters"},
            excess=UNKNOWN_EXCESS,
        )
    if isinstance(error, NonFiniteLossError):
        attributes["cause"] = "hyperparameters"
    return Result("failed", reason=reason, attributes=attributes)


def free_memory() -> None:
    """Let go of what an attempt held: an error's frames keep tensors alive in cycles."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def declined(error: MemoryPlanError, *, redraws: bool) -> Result:
    """The result of a draw that the device has no room for.

    Parameters
    ----------
    redraws : whether another draw takes its place; else it has failed
    """
    return Result(
        "declined" if redraws else "failed",
        reason=str(error),
        attributes={"cause": "hyperparameters"},
        excess=max(error.excess, 1e-9),
    )


class Streaks:
    """Counts what goes wrong in a row.

    Parameters
    ----------
    study, slot : names, for what is said
    """

    def __init__(self, study: str, slot: str) -> None:
        self._study = study
        self._slot = slot
        self._failures: list[str] = []
        self._declined = 0

    def count(self, result: Result) -> None:
        """Take note of a result.

        Raises
        ------
        TrainingError
            After three failed trials in a row that their hyperparameters are not to blame for.
        MemoryPlanError
            After twenty draws in a row that did not fit.
        """
        self._count_declined(result)
        if result.ending in ("complete", "pruned"):
            self._failures.clear()
        elif result.ending == "failed" and result.attributes.get("cause") not in _NOT_TO_BLAME:
            self._failures.append(result.reason or "unknown")
        if len(self._failures) >= MOST_FAILURES:
            raise TrainingError(
                f"{MOST_FAILURES} trials in a row failed; the last: {self._failures[-1]}",
                where=f"study {self._study}",
                mend="hms-tune study show NAME --trial N prints the traceback",
            )

    def _count_declined(self, result: Result) -> None:
        self._declined = self._declined + 1 if result.excess > 0.0 else 0
        if result.ending == "declined":
            _logger.info("Slot %s declined a draw: %s", self._slot, result.reason)
        if self._declined >= MOST_DECLINED:
            raise MemoryPlanError(
                f"{MOST_DECLINED} draws in a row did not fit; the last: {result.reason}",
                where=f"study {self._study}",
                mend="Search smaller batch sizes, images or backbones in a new study, or use a larger device",
            )


def wished(wanted: Wanted) -> Result:
    """The result of an attempt that people do not want to go on here.

    A stopped trial has failed, and is not pruned: a pruned one tells the sampler that its values are poor,
    and a person may stop a trial for any reason. It does not count towards the failures in a row that end a
    worker.
    """
    match wanted:
        case "trial stopped":
            return Result("failed", reason=STOPPED_BY_A_PERSON, attributes={"cause": "person"})
        case "worker leaves":
            return Result("handed_back", reason="handed back: the worker was asked to leave")
        case "paused" | "stopped":
            return Result("handed_back", reason=f"handed back: the study is {wanted}")
        case "running":
            raise ValueError("a running attempt is to go on")
