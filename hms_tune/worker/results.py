"""Turns an attempt's events or its error into a result, and ends the worker after repeated failures."""

from __future__ import annotations

import gc
import logging
import math
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from hms_tune.data.labels import HIGH_VOTES
from hms_tune.database.optuna_trial import (
    KL_ALL_ROWS_ATTRIBUTE,
    KL_HIGH_VOTE_ATTRIBUTE,
    NOISE_ATTRIBUTE,
    SECONDS_ATTRIBUTE,
)
from hms_tune.database.queue.attempt import Result
from hms_tune.database.queue.end import STOPPED_BY_A_PERSON
from hms_tune.database.queue.lease import Requested
from hms_tune.errors import HmsTuneError, MemoryPlanError, NonFiniteLossError, TrainingError
from hms_tune.search.memory_constraint import CAUSE_ATTRIBUTE, HYPERPARAMETERS, MOST_INFEASIBLE
from hms_tune.training.events import CrossValidationEnded, EpochEnded, Event, OutOfFold
from hms_tune.training.observer import Observer, TrialInfo
from hms_tune.training.scores import kl_per_row, patient_interval
from hms_tune.trial_state import AttemptState

_logger = logging.getLogger(__name__)

MOST_FAILURES = 3
"""After this many failed trials in a row something other than the hyperparameters is wrong."""

_NOT_TO_BLAME = (HYPERPARAMETERS, "person")
"""Causes of failure that say nothing about the machine, the data or the code."""

UNKNOWN_EXCESS = 0.05
"""By what share a trial that ran out of memory exceeds it, for the sampler: the real share is unknown."""

STOP_REQUESTED = Result(AttemptState.REQUEUED, reason="requeued: the worker was asked to stop")


@dataclass(slots=True)
class AttemptEvents:
    """What is known of a running attempt from its events.

    ``trial`` is None until observers heard that it began. ``unsent`` are events that observers did not get
    yet.
    """

    trial: TrialInfo | None = None
    last: EpochEnded | None = None
    ended: CrossValidationEnded | None = None
    seconds: float = 0.0
    unsent: list[Event] = field(default_factory=list)

    def add(self, event: Event) -> None:
        """Take in an event."""
        self.unsent.append(event)
        match event:
            case EpochEnded():
                self.last = event
                self.seconds += event.seconds
            case CrossValidationEnded():
                self.ended = event
            case _:
                pass

    def forward(self, observers: Sequence[Observer]) -> None:
        """Give observers the events that they did not get yet."""
        unsent, self.unsent = self.unsent, []
        for event in unsent:
            for observer in observers:
                if self.trial is not None:
                    observer.event(self.trial, event)

    @property
    def value(self) -> float | None:
        """The trial's KL, or its estimate so far."""
        return self.ended.kl if self.ended else self.last.estimate if self.last else None

    def attributes(self) -> dict[str, Any]:
        """What the attempt's end writes beside its value."""
        attributes: dict[str, Any] = {SECONDS_ATTRIBUTE: round(self.seconds, 3)}
        if (ended := self.ended) is not None:
            attributes |= {
                KL_ALL_ROWS_ATTRIBUTE: ended.kl_all_rows,
                KL_HIGH_VOTE_ATTRIBUTE: None if math.isnan(ended.kl_high_vote) else ended.kl_high_vote,
                "fold_kl": list(ended.fold_kl),
                "best_epochs": list(ended.best_epochs),
                NOISE_ATTRIBUTE: self._standard_error(ended.out_of_fold),
            }
        return attributes

    def _standard_error(self, predictions: OutOfFold) -> float | None:
        """Of the deciding score, by bootstrap over patients."""
        all_rows = self.trial is None or self.trial.config.data.judged_on == "all_rows"
        rows = slice(None) if all_rows else predictions.total_votes >= HIGH_VOTES
        per_row = kl_per_row(predictions.targets[rows], predictions.probabilities[rows])
        interval = patient_interval(per_row, predictions.patient_id[rows])
        return None if interval is None else (interval[1] - interval[0]) / (2 * 1.96)

    def complete_result(self, last_step: int) -> Result:
        """The result of an attempt whose events are over.

        Parameters
        ----------
        last_step : the step at which trials of the study end

        Raises
        ------
        TrainingError
            If its cross-validation has not ended.
        NonFiniteLossError
            If its KL is NaN or infinite.
        """
        if self.ended is None:
            raise TrainingError("the trial ended without a result")
        if not math.isfinite(self.ended.kl):
            raise NonFiniteLossError(f"the trial's KL is {self.ended.kl}")
        rung = (last_step, self.ended.kl)
        return Result(AttemptState.COMPLETE, value=self.ended.kl, attributes=self.attributes(), rung=rung)


def failed_result(error: Exception, trial: TrialInfo | None, *, redraws: bool) -> Result:
    """A failed trial's reason in one line, its traceback beside it, and whether its values are to blame.

    Parameters
    ----------
    redraws : whether another draw takes the place of one that did not fit the device
    """
    attributes: dict[str, Any] = {"traceback": storable("".join(traceback.format_exception(error))[-8000:])}
    lines = str(error).strip().splitlines()
    reason = (
        str(error)
        if isinstance(error, HmsTuneError)
        else f"{type(error).__name__}: {lines[0] if lines else ''}"
    )
    if type(error).__name__ == "OutOfMemoryError" and trial is not None:
        return Result(
            AttemptState.INFEASIBLE if redraws else AttemptState.FAILED,
            reason=f"out of device memory at batch size {trial.config.training.batch_size}",
            attributes=attributes | {CAUSE_ATTRIBUTE: HYPERPARAMETERS},
            excess=UNKNOWN_EXCESS,
        )
    if isinstance(error, NonFiniteLossError):
        attributes[CAUSE_ATTRIBUTE] = HYPERPARAMETERS
    return Result(AttemptState.FAILED, reason=storable(reason), attributes=attributes)


def storable(text: str) -> str:
    """A text as PostgreSQL takes it: a zero, and bytes of a path that are no letters, written out."""
    return text.replace("\0", "\\x00").encode("utf-8", "backslashreplace").decode("utf-8")


def infeasible_result(error: MemoryPlanError, *, redraws: bool) -> Result:
    """The result of a draw that the device has no room for.

    Parameters
    ----------
    redraws : whether another draw takes its place; else it has failed
    """
    return Result(
        AttemptState.INFEASIBLE if redraws else AttemptState.FAILED,
        reason=storable(str(error)),
        attributes={CAUSE_ATTRIBUTE: HYPERPARAMETERS},
        excess=max(error.excess, 1e-9),
    )


def requested_result(requested: Requested) -> Result:
    """The result of an attempt that people requested to end here.

    A stopped trial has failed, and is not pruned: for the sampler a pruned one has poor values, and a person
    may stop a trial for any reason. It does not count towards the failures in a row that end a worker.
    """
    match requested:
        case "trial stopped":
            return Result(
                AttemptState.FAILED, reason=STOPPED_BY_A_PERSON, attributes={CAUSE_ATTRIBUTE: "person"}
            )
        case "worker leaves":
            return Result(AttemptState.REQUEUED, reason="requeued: the worker was asked to leave")
        case "paused" | "stopped":
            return Result(AttemptState.REQUEUED, reason=f"requeued: the study is {requested}")
        case "running":
            raise ValueError("a running attempt is to go on")


def free_memory() -> None:
    """Free what a failed attempt held: an error's frames keep tensors alive in cycles."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


class ConsecutiveFailures:
    """Counts failed trials and infeasible draws in a row.

    Parameters
    ----------
    study, slot : names, for messages
    """

    def __init__(self, study: str, slot: str) -> None:
        self._study = study
        self._slot = slot
        self._failures: list[str] = []
        self._infeasible = 0

    def count(self, result: Result, attempt: int) -> None:
        """Count the result of an attempt, which is named by its number.

        Raises
        ------
        TrainingError
            After three failed trials in a row that their hyperparameters are not to blame for.
        MemoryPlanError
            After twenty draws in a row that did not fit.
        """
        self._count_infeasible(result)
        if result.state in (AttemptState.COMPLETE, AttemptState.PRUNED, AttemptState.PAUSED):
            self._failures.clear()
        elif (
            result.state is AttemptState.FAILED
            and result.attributes.get(CAUSE_ATTRIBUTE) not in _NOT_TO_BLAME
        ):
            self._failures.append(result.reason or "unknown")
        if len(self._failures) >= MOST_FAILURES:
            raise TrainingError(
                f"{MOST_FAILURES} trials in a row failed; the last: {self._failures[-1]}",
                where=f"study {self._study}",
                hint=f"hms-tune study show {self._study} --trial {attempt} prints the traceback",
            )

    def _count_infeasible(self, result: Result) -> None:
        self._infeasible = self._infeasible + 1 if result.excess > 0.0 else 0
        if result.state is AttemptState.INFEASIBLE:
            _logger.info("Slot %s: a draw is infeasible: %s", self._slot, result.reason)
        if self._infeasible >= MOST_INFEASIBLE:
            raise MemoryPlanError(
                f"{MOST_INFEASIBLE} draws in a row did not fit; the last: {result.reason}",
                where=f"study {self._study}",
                hint="Search smaller batch sizes, images or backbones in a new study, or use a larger device",
            )
