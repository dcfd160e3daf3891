"""A study's queue in this process: what a slot needs of one, without a database."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import optuna

from hms_tune.database.connection.retry import Patience
from hms_tune.database.queue.attempt import Attempt, Result
from hms_tune.database.queue.claim import Refusal
from hms_tune.database.queue.lease import Holder, Lease, LeaseKeeper, Requested, lease_lost
from hms_tune.database.queue.recovery import Recovered
from hms_tune.database.queue.shared_folds import FoldTaken, HelpedTrial
from hms_tune.machine.processes import ProcessIdentity
from hms_tune.trial_state import AttemptState

HOLDER = Holder("worker", "cpu", ProcessIdentity("host", 1, 1, "machine"))


@dataclass(slots=True)
class MemoryLease:
    """A lease that a test takes away or makes uncertain."""

    lease: Lease
    lost: bool = False
    certain: bool = True
    request: Requested = "running"

    def check(self) -> None:
        if self.lost:
            raise lease_lost(self.lease)

    def heard_within(self, seconds: float) -> bool:
        return True

    def requested(self, *, fresh_s: float = 2.0) -> Requested:
        return self.request


@dataclass(slots=True)
class MemoryQueue:
    """The methods of StudyQueue on a budget and an Optuna study in memory.

    ``refusals`` are the answers to the next claims; ``faults`` of a method's name are raised, one at each
    call. ``calls`` are all calls, ``results`` what ended, by the number of the attempt.
    """

    study: optuna.Study
    budget: int
    patience: Patience = field(default_factory=Patience)
    holder: Holder = field(
        default_factory=lambda: Holder("worker", "cpu", ProcessIdentity("host", 1, 1, "m"))
    )
    refusals: list[Refusal] = field(default_factory=list)
    faults: dict[str, list[Exception]] = field(default_factory=dict)
    recovered: list[Recovered] = field(default_factory=list)
    calls: list[tuple[object, ...]] = field(default_factory=list)
    results: dict[int, Result] = field(default_factory=dict)
    held: MemoryLease | None = None
    _claimed: int = 0
    _waiting: list[int] = field(default_factory=list)
    _first: dict[int, int] = field(default_factory=dict)
    _ids: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def recover(self) -> tuple[Recovered, ...]:
        self._call("recover")
        recovered, self.recovered = self.recovered, []
        return tuple(recovered)

    def keeping_reports(self, attempt: Attempt, keeper: LeaseKeeper) -> AbstractContextManager[None]:
        return nullcontext()

    def write_reports(self, attempt: Attempt) -> None:
        """Optuna keeps none."""

    def end_orphans(self) -> None:
        """There are none."""

    def claim(self, token: str, *, helps: bool = False) -> Lease | Refusal:
        self._call("claim", token)
        if self.refusals:
            return self.refusals.pop(0)
        if self._waiting:
            return Lease(next(self._ids), 0, self._waiting.pop(0), None)
        if self._claimed >= self.budget:
            return Refusal.BUDGET_SPENT
        self._claimed += 1
        return Lease(next(self._ids), 0, trial_id=next(self._ids), token=None)

    @contextmanager
    def keep(self, lease: Lease, *, granted_at: float) -> Iterator[MemoryLease]:
        self.held = MemoryLease(lease)
        yield self.held
        self.held = None

    def start(self, lease: Lease) -> Attempt:
        self._call("start")
        trial = self.study.ask()
        first = self._first.setdefault(lease.trial_id, trial.number)
        return Attempt(lease, trial, trial.number, first)

    def release(self, lease: Lease) -> None:
        self._call("release")
        self._waiting.append(lease.trial_id)

    def describe(self, attempt: Attempt, attributes: Mapping[str, Any]) -> None:
        for key, value in attributes.items():
            attempt.optuna_trial.set_user_attr(key, value)

    def end(self, attempt: Attempt, result: Result) -> Result:
        self._call("end")
        self.results[attempt.number] = result
        if result.state in ("requeued", "lost"):
            self._waiting.append(attempt.lease.trial_id)
        elif result.state == "infeasible":
            self._claimed -= 1
        return result

    def take_fold(self, lease: Lease, fold: int, until: int) -> FoldTaken:
        self._call("take_fold", fold, until)
        return "ours"

    def helped(self, lease: Lease) -> HelpedTrial:
        raise NotImplementedError

    def end_help(self, lease: Lease, state: AttemptState) -> None:
        raise NotImplementedError

    def least_promising(self) -> list[int]:
        return []

    def ended_trials(self, among: Collection[int]) -> list[int]:
        self._call("ended_trials")
        complete = {number: result.value for number, result in self.results.items() if result.value}
        best = min(complete, key=complete.__getitem__, default=None)
        return [number for number in among if number in self.results and number != best]

    def _call(self, method: str, *arguments: object) -> None:
        self.calls.append((method, *arguments))
        if faults := self.faults.get(method):
            raise faults.pop(0)
