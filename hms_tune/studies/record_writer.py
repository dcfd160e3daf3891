"""Writes each attempt's record, at the ends of folds that took a while and at its end.

Training never waits for it. A write holds the whole record so far: if an outage prevents one, the next
replaces it. An attempt that takes over replays the events of the one before. If a record cannot be written,
the log says so once: records are for people, and no trial waits for them.
"""

from __future__ import annotations

import logging
import resource
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from hms_tune.database.connect import Storage
from hms_tune.database.connection.retry import Caller, passes
from hms_tune.database.queries.records import RecordRow, write_record
from hms_tune.database.queries.totals import best_complete_attempt
from hms_tune.errors import ArtifactError
from hms_tune.machine.background import BackgroundQueue
from hms_tune.machine.cores import processor_name
from hms_tune.studies.predictions import keep_out_of_fold
from hms_tune.studies.trial_note import trial_note
from hms_tune.studies.trial_record import TrialRecord, others_before, trial_record_at
from hms_tune.training.events import CrossValidationEnded, Event, FoldEnded, OutOfFold
from hms_tune.training.history import Recorder, folds_as_json
from hms_tune.training.observer import TrialInfo
from hms_tune.trial_state import AttemptState
from hms_tune.version import __version__

_logger = logging.getLogger(__name__)

AGAIN_S = 2.0
"""Time between two tries while the database is away."""

EVERY_S = 30.0
"""Shortest time between two writes before an attempt's end, s; what an attempt's loss may cost its record."""

CLOSING_S = 8.0
"""How long a slot that ends waits for its last record."""


@dataclass(frozen=True, slots=True)
class Equipment:
    """Where trials run. ``gpus`` is the slot's share of a GPU, 0 on a CPU."""

    device: str
    gpus: float
    data_digest: str

    @classmethod
    def alone(cls, device: str, data_digest: str) -> Self:
        """Of a process that has the device for itself."""
        return cls(device, 1.0 if device.startswith("cuda") else 0.0, data_digest)

    @property
    def device_name(self) -> str:
        """The GPU's name, or the processor's."""
        torch = sys.modules.get("torch")
        if self.device.startswith("cuda") and torch is not None:
            return str(torch.cuda.get_device_name(self.device))
        return processor_name()

    def peak_memory(self) -> int:
        """Most memory held so far: of the GPU since the last reset, of the process ever; bytes."""
        torch = sys.modules.get("torch")
        if self.device.startswith("cuda") and torch is not None:
            return int(torch.cuda.max_memory_allocated(self.device))
        kibibytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return kibibytes if sys.platform == "darwin" else kibibytes * 1024

    def reset_peak_memory(self) -> None:
        """Begin to measure anew, where that can be."""
        torch = sys.modules.get("torch")
        if self.device.startswith("cuda") and torch is not None:
            torch.cuda.reset_peak_memory_stats(self.device)


@dataclass(slots=True)
class _Draft:
    """What is to be written of a trial."""

    trial: TrialInfo
    recorder: Recorder = field(default_factory=Recorder)
    values: dict[str, Any] = field(default_factory=dict)
    predictions: OutOfFold | None = None
    ended: bool = False
    offered_at: float = field(default_factory=time.monotonic)

    @property
    def is_due(self) -> bool:
        """Whether it is to be written though the attempt goes on."""
        return time.monotonic() - self.offered_at >= EVERY_S


class TrialRecorder:
    """An observer that keeps the record of each trial of a slot.

    Parameters
    ----------
    study_id : Optuna's id of the study
    place : where the slot's trials run
    run_url : told a trial, the address of its tracking run, once that is known
    keep : is given the out-of-fold predictions of each complete trial
    completed : called once a complete trial's predictions and record are kept
    """

    def __init__(
        self,
        storage: Storage,
        study_id: int,
        place: Equipment,
        *,
        run_url: Callable[[TrialInfo], str | None] = lambda trial: None,
        keep: Callable[[TrialInfo, OutOfFold], None] = lambda trial, predictions: None,
        completed: Callable[[], None] = lambda: None,
    ) -> None:
        self._storage = storage
        self._study_id = study_id
        self._place = place
        self._run_url = run_url
        self._keep = keep
        self._completed = completed
        self._draft: _Draft | None = None
        self._warned = False
        self._caller = Caller(storage.patience)
        self._queue: BackgroundQueue[_Draft] = BackgroundQueue(self._write_or_retry, name="records")

    def trial_started(self, trial: TrialInfo) -> None:
        """Begin a record."""
        self._draft = _Draft(trial)
        self._place.reset_peak_memory()

    def event(self, trial: TrialInfo, event: Event) -> None:
        """Take note; at the end of a fold, write."""
        draft = self._draft
        if draft is None or draft.trial.attempt != trial.attempt:
            return
        draft.recorder.add(event)
        if isinstance(event, CrossValidationEnded):
            draft.predictions = event.out_of_fold
        elif isinstance(event, FoldEnded) and not event.replayed and draft.is_due:
            self._offer(draft)

    def trial_ended(
        self, trial: TrialInfo, state: AttemptState, value: float | None, reason: str | None
    ) -> None:
        """Write the record with how it ended. One that was lost is its new owner's to tell."""
        draft, self._draft = self._draft, None
        if draft is None or state is AttemptState.LOST:
            return
        draft.ended = True
        draft.values = {"reason": reason}
        if state is not AttemptState.COMPLETE:
            draft.predictions = None
        self._offer(draft)

    def close(self) -> None:
        """Wait for the last record, a few seconds at most."""
        with self._caller:
            self._queue.close(CLOSING_S)

    def _offer(self, draft: _Draft) -> None:
        """Hand over a copy, made here so that the thread reads what no one changes."""
        trial, draft.offered_at = draft.trial, time.monotonic()
        draft.values |= {
            "config": trial.config.model_dump(mode="json"),
            "folds": folds_as_json(draft.recorder.records()),
            "device": self._place.device,
            "device_name": self._place.device_name,
            "gpus": self._place.gpus,
            "peak_memory": self._place.peak_memory(),
            "data_digest": self._place.data_digest,
            "version": __version__,
        }
        offered = _Draft(
            trial,
            values=dict(draft.values),
            predictions=draft.predictions if draft.ended else None,
            ended=draft.ended,
        )
        self._queue.put(offered, key=trial.attempt)

    def _write_or_retry(self, draft: _Draft) -> float | None:
        """Write a record; if an outage cut that off, after how many seconds to try again."""
        try:
            self._write(draft.trial.attempt, draft)
            self._caller.answered()
        except Exception as error:  # whatever it is, training must not hear of it
            _logger.debug("a record was not written", exc_info=True)
            if passes(error):
                self._caller.refused(error)
                return AGAIN_S
            if not self._warned:
                self._warned = True
                _logger.warning("Records of trials cannot be kept (%s); the search goes on", error)
        return None

    def _write(self, number: int, draft: _Draft) -> None:
        # Asked here, as late as can be: a run is opened on a thread of its own, after the trial has begun.
        url = self._run_url(draft.trial)
        values = draft.values | ({"run_url": url} if url else {})
        if not draft.ended:
            self._store(number, values)
            return
        if draft.predictions is not None:
            self._keep_everywhere(draft.trial, draft.predictions)
        if draft.predictions is not None and self._is_best(number):
            keep_out_of_fold(self._storage, self._study_id, number, draft.predictions)
        record = self._record(number, values)
        study = draft.trial.study
        self._store(number, values | {"note": self._note(study, record)}, close=True)
        for each in record.attempts:
            if each.attempt < number:  # one that was lost could not say so itself
                self._store(each.attempt, {"note": self._note(study, self._record(each.attempt))})
        if draft.predictions is not None:
            self._completed()

    def _record(self, number: int, values: Mapping[str, Any] | None = None) -> TrialRecord:
        row = None if values is None else RecordRow(number=number, **values)
        return trial_record_at(self._storage, self._study_id, number, row=row)

    def _note(self, study: str, record: TrialRecord) -> str:
        """The note, with a look at the others only where it compares the trial with them."""
        compares = record.state in (AttemptState.PRUNED, AttemptState.PAUSED)
        others = others_before(self._storage, self._study_id, record) if compares else None
        return trial_note(study, record, others)

    def _keep_everywhere(self, trial: TrialInfo, predictions: OutOfFold) -> None:
        """Blends can do without a trial whose predictions the store did not take."""
        try:
            self._keep(trial, predictions)
        except (ArtifactError, OSError) as error:
            _logger.warning("Predictions of trial %s are not kept for blends: %s", trial.trial, error)

    def _store(self, number: int, values: dict[str, Any], *, close: bool = False) -> None:
        with self._storage.transaction() as connection:
            write_record(connection, self._study_id, number, values, close=close)

    def _is_best(self, number: int) -> bool:
        with self._storage.statements() as connection:
            return best_complete_attempt(connection, self._study_id) == number
