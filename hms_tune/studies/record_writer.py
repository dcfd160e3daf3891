"""Writes what each trial told, at its fold ends and at its end, from a thread that training never waits for.

A write is the whole record so far, so one that an outage swallowed is made good by the next; and an attempt
that takes over hears the whole story again. What cannot be written is said once and lost: records are for
people, and no trial waits for them.
"""

from __future__ import annotations

import logging
import platform
import resource
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import SQLAlchemyError

from hms_tune.database.connect import Storage
from hms_tune.database.retry import passes
from hms_tune.database.tables import now, trial_records
from hms_tune.studies.predictions import keep_out_of_fold
from hms_tune.studies.trial_note import trial_note
from hms_tune.studies.trial_record import trial_record
from hms_tune.training.events import CrossValidationEnded, Event, FoldEnded, OutOfFold
from hms_tune.training.history import Recorder, folds_as_json
from hms_tune.training.observer import Outcome, TrialInfo
from hms_tune.version import __version__

_logger = logging.getLogger(__name__)

AGAIN_S = 2.0
"""Time between two tries while the database is away."""

CLOSING_S = 8.0
"""How long a slot that ends waits for its last record."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where trials run. ``gpus`` is the slot's share of a GPU, 0 on a CPU."""

    device: str
    gpus: float
    data_digest: str

    @property
    def device_name(self) -> str:
        """The GPU's name, or the processor's."""
        torch = sys.modules.get("torch")
        if self.device.startswith("cuda") and torch is not None:
            return str(torch.cuda.get_device_name(self.device))
        return _processor()

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


class TrialRecorder:
    """An observer that keeps the record of each trial of a slot.

    Parameters
    ----------
    study_id : Optuna's id of the study
    place : where the slot's trials run
    run_url : told a trial, the address of its tracking run, once that is known
    """

    def __init__(
        self,
        storage: Storage,
        study_id: int,
        place: Place,
        *,
        run_url: Callable[[TrialInfo], str | None] = lambda trial: None,
    ) -> None:
        self._storage = storage
        self._study_id = study_id
        self._place = place
        self._run_url = run_url
        self._draft: _Draft | None = None
        self._waiting: dict[int, _Draft] = {}
        self._changed = threading.Condition()
        self._closing = False
        self._warned = False
        self._thread = threading.Thread(target=self._write_on, name="records", daemon=True)
        self._thread.start()

    def trial_started(self, trial: TrialInfo) -> None:
        """Begin a record."""
        self._draft = _Draft(trial)
        self._place.reset_peak_memory()

    def event(self, trial: TrialInfo, event: Event) -> None:
        """Take note; at the end of a fold, write."""
        draft = self._draft
        if draft is None or draft.trial.number != trial.number:
            return
        draft.recorder.add(event)
        if isinstance(event, CrossValidationEnded):
            draft.predictions = event.out_of_fold
        elif isinstance(event, FoldEnded) and not event.replayed:
            self._offer(draft)

    def trial_ended(
        self, trial: TrialInfo, outcome: Outcome, value: float | None, reason: str | None
    ) -> None:
        """Write the record with how it ended. One that was lost is its new owner's to tell."""
        draft, self._draft = self._draft, None
        if draft is None or outcome == "lost":
            return
        draft.ended = True
        draft.values = {"outcome": outcome, "reason": reason}
        self._offer(draft)

    def close(self) -> None:
        """Wait for the last record, a few seconds at most."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(timeout=CLOSING_S)

    def _offer(self, draft: _Draft) -> None:
        """Hand over a copy, made here so that the thread reads what no one changes."""
        trial = draft.trial
        draft.values |= {
            "lineage": trial.lineage,
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
            predictions=draft.predictions if draft.values.get("outcome") == "complete" else None,
            ended=draft.ended,
        )
        with self._changed:
            self._waiting[trial.number] = offered
            self._changed.notify()

    def _write_on(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closing)
                if not self._waiting:
                    return
                number = next(iter(self._waiting))
                draft = self._waiting.pop(number)
            try:
                self._write(number, draft)
            except Exception as error:  # whatever it is, training must not hear of it
                _logger.debug("a record was not written", exc_info=True)
                self._after(error, number, draft)

    def _after(self, error: Exception, number: int, draft: _Draft) -> None:
        """Try again later what an outage cut off; say of anything else that it is lost."""
        if isinstance(error, SQLAlchemyError) and passes(error):
            with self._changed:
                self._waiting.setdefault(number, draft)  # unless a newer one waits by now
                self._changed.wait_for(lambda: self._closing, timeout=AGAIN_S)
            return
        if not self._warned:
            self._warned = True
            _logger.warning("Records of trials cannot be kept (%s); the search goes on", error)

    def _write(self, number: int, draft: _Draft) -> None:
        # Asked here, as late as can be: a run is opened on a thread of its own, after the trial has begun.
        url = self._run_url(draft.trial)
        self._store(number, draft.values | ({"run_url": url} if url else {}))
        if not draft.ended:
            return
        study = draft.trial.study
        if draft.predictions is not None and self._is_best(number):
            keep_out_of_fold(self._storage, self._study_id, number, draft.predictions)
        others = self._storage.optuna.shared.get_all_trials(self._study_id, deepcopy=False)
        record = trial_record(self._storage, study, number)
        self._store(number, {"note": trial_note(record, others)})
        for attempt in record.attempts:
            if attempt.number < number:  # one that was lost could not say so itself
                earlier = trial_record(self._storage, study, attempt.number)
                note = trial_note(earlier, others)
                self._store(attempt.number, {"lineage": draft.trial.lineage, "note": note})

    def _store(self, number: int, values: dict[str, Any]) -> None:
        identity = {"study_id": self._study_id, "number": number}
        written = {**values, "written_at": now()}
        statement = insert(trial_records).values(**identity, **{"lineage": number, **values})
        with self._storage.engine.begin() as connection:
            connection.execute(
                statement.on_conflict_do_update(index_elements=["study_id", "number"], set_=written)
            )

    def _is_best(self, number: int) -> bool:
        try:
            return self._storage.optuna.get_best_trial(self._study_id).number == number
        except ValueError:  # none is complete: its result was not its own
            return False


def _processor() -> str:
    """The processor's name, as Linux tells it, or its kind."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            for line in lines:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
