"""What a slot does next: its control flow, on a queue in memory."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
import psycopg2
import pytest
from memory_queue import MemoryQueue
from optuna.storages import InMemoryStorage
from sqlalchemy.exc import OperationalError
from stories import a_fold_end, a_fold_start, an_ending, an_epoch

from hms_tune.config.study_file import StudyFile
from hms_tune.config.trial import TrialConfig
from hms_tune.database.queue.attempt import Result
from hms_tune.database.queue.claim import Refusal
from hms_tune.database.queue.lease import Lease, Requested
from hms_tune.database.queue.recovery import Recovered
from hms_tune.database.queue.study_queue import StudyQueue
from hms_tune.errors import (
    ArtifactError,
    DataError,
    HmsTuneError,
    MemoryPlanError,
    NonFiniteLossError,
    PretrainedError,
    RankLostError,
    StorageAwayError,
    TrainingError,
)
from hms_tune.search.memory_constraint import MOST_INFEASIBLE
from hms_tune.search.reports import Reporter
from hms_tune.search.study import create_or_load
from hms_tune.search.suggest import suggest
from hms_tune.training.checkpoint import write_checkpoint
from hms_tune.training.events import CheckpointWritten, EpochEnded, Event
from hms_tune.training.observer import TrialInfo
from hms_tune.trial_state import AttemptState
from hms_tune.worker.attempt import SlotSetup
from hms_tune.worker.checkpoint_store.checkpoints import Artifacts
from hms_tune.worker.open_study import Search
from hms_tune.worker.results import failed_result
from hms_tune.worker.slot import Slot
from hms_tune.worker.stop import StepCut, Stop

FILE = StudyFile.parse(
    """
study: memory
data: {folds: 2}
training: {epochs: 3, learning_rate: {low: 1.0e-4, high: 1.0e-2, log: true}}
model: {backbone: test_resnet, pretrained: false}
search: {sampler: random, pruner: none}
""",
    "test",
)


def train(config: TrialConfig, directory: Path) -> Iterator[Event]:
    """Two folds of one epoch, with a checkpoint after each."""
    for fold in range(2):
        yield a_fold_start(fold)
        yield an_epoch(fold, kl=1.5)
        yield CheckpointWritten(path=write_checkpoint(directory, fold, {}), fold=fold, epoch=0)
        yield a_fold_end(fold)
    yield an_ending(1.0 + config.training.learning_rate)


@pytest.fixture(autouse=True)
def _no_collection(monkeypatch: pytest.MonkeyPatch) -> None:
    """A failed trial's memory is collected, which takes long where much else is loaded."""
    monkeypatch.setattr("hms_tune.worker.attempt.free_memory", lambda: None)


class Listener:
    """An observer that calls a function with each event."""

    def __init__(self, at_event: Callable[[Event], None] = lambda event: None) -> None:
        self.events: list[Event] = []
        self.ended: list[tuple[int, AttemptState, str | None]] = []
        self._at_event = at_event

    def trial_started(self, trial: TrialInfo) -> None: ...

    def event(self, trial: TrialInfo, event: Event) -> None:
        self.events.append(event)
        self._at_event(event)

    def trial_ended(
        self, trial: TrialInfo, state: AttemptState, value: float | None, reason: str | None
    ) -> None:
        self.ended.append((trial.attempt, state, reason))

    def close(self) -> None: ...


class Watched(Stop):
    """Notes how long it is asked to wait, and does not wait."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[float] = []

    def wait(self, seconds: float) -> bool:
        self.waits.append(seconds)
        return self.requested


def a_queue(budget: int = 3, **values: Any) -> MemoryQueue:
    return MemoryQueue(create_or_load(InMemoryStorage(), FILE), budget, **values)


def a_slot(queue: MemoryQueue, folder: Path, **setup: Any) -> Slot:
    search = Search(
        study=queue.study,
        study_id=0,
        suggest=setup.pop("suggest", lambda trial: suggest(FILE.space, trial)),
        reporter=lambda trial: Reporter(trial, FILE),
    )
    artifacts = setup.pop("artifacts", Artifacts.at(folder / "store", folder / "scratch", FILE.study))
    values = {"train": train, "artifacts": artifacts, "look_s": 0.0} | setup
    return Slot(SlotSetup(queue, search, **values))  # type: ignore[arg-type]


def away() -> OperationalError:
    return OperationalError("SELECT 1", None, psycopg2.OperationalError("gone"))


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name.startswith("hms_tune")]


def endings(queue: MemoryQueue) -> list[str]:
    return [result.state for result in queue.results.values()]


def test_the_queue_in_memory_has_the_methods_of_the_real_one() -> None:
    for name, method in inspect.getmembers(StudyQueue, inspect.isfunction):
        if not name.startswith("_"):
            ours = inspect.signature(getattr(MemoryQueue, name))
            assert ours.parameters == inspect.signature(method).parameters


def test_trials_are_claimed_until_the_budget_is_spent(tmp_path: Path) -> None:
    queue, listener = a_queue(3), Listener()
    assert a_slot(queue, tmp_path, observers=[listener]).run() == 3
    assert endings(queue) == ["complete"] * 3
    assert [(number, state) for number, state, _ in listener.ended] == [
        (number, "complete") for number in range(3)
    ]
    assert [name for name, *_ in queue.calls[:5]] == ["recover", "claim", "start", "end", "ended_trials"]
    assert len({token for name, *token in map(list, queue.calls) if name == "claim" for token in token}) == 4


def test_checkpoints_of_ended_trials_are_removed_but_the_best_ones(tmp_path: Path) -> None:
    queue = a_queue(3)
    a_slot(queue, tmp_path).run()
    best = min(queue.results, key=lambda number: queue.results[number].value or 9.0)
    assert [path.name for path in (tmp_path / "store" / "memory").iterdir()] == [f"trial-{best}"]


def test_a_slot_waits_while_the_study_is_paused_or_others_run_and_says_so_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    queue, stop = a_queue(1), Watched()
    queue.refusals = [Refusal.PAUSED] * 3 + [Refusal.OTHERS_RUNNING]
    with caplog.at_level(logging.INFO):
        assert a_slot(queue, tmp_path, stop=stop, poll_s=7.0).run() == 1
    assert stop.waits == [7.0] * 4
    assert said(caplog) == [
        "Slot cpu: the study is paused",
        "Slot cpu: the budget is spent; other slots still run its last trials",
        "Slot cpu: the budget is spent and every trial has ended",
    ]


@pytest.mark.parametrize(
    "refusal", [each for each in Refusal if each not in (Refusal.PAUSED, Refusal.OTHERS_RUNNING)]
)
def test_a_slot_ends_where_waiting_does_not_help(refusal: Refusal, tmp_path: Path) -> None:
    queue, stop = a_queue(1), Watched()
    queue.refusals = [refusal]
    assert a_slot(queue, tmp_path, stop=stop).run() == 0
    assert stop.waits == []


def test_a_recovered_trial_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, logger="hms_tune")
    lost = Recovered(Lease(1, 0, 1, None), 4, Result(AttemptState.LOST, reason="lease lost"), set_aside=False)
    aside = Recovered(Lease(2, 0, 2, None), 5, Result(AttemptState.LOST, reason="set aside"), set_aside=True)
    a_slot(a_queue(0, recovered=[lost, aside]), tmp_path).run()
    assert said(caplog) == [
        "Attempt 4 lost its worker; its trial goes on in a new attempt",
        "Attempt 5 lost its worker; set aside",
    ]


def test_a_stop_request_requeues_the_trial_once_its_epoch_is_in_a_checkpoint(tmp_path: Path) -> None:
    queue, stop = a_queue(1), Stop()

    def ask(event: Event) -> None:
        if isinstance(event, EpochEnded):
            stop.request()

    listener = Listener(ask)
    assert a_slot(queue, tmp_path, stop=stop, observers=[listener]).run() == 0
    assert queue.results[0] == Result(AttemptState.REQUEUED, reason="requeued: the worker was asked to stop")
    assert isinstance(listener.events[-1], CheckpointWritten)
    assert list((tmp_path / "store").rglob("*.pt"))
    assert a_slot(queue, tmp_path).run() == 1
    assert endings(queue) == ["requeued", "complete"]


def test_a_step_that_is_cut_requeues_the_trial(tmp_path: Path) -> None:
    def long_step(config: TrialConfig, directory: Path) -> Iterator[Event]:
        yield a_fold_start()
        stop.request()
        stop.cut()

    queue, stop = a_queue(1), Stop()
    assert a_slot(queue, tmp_path, train=long_step, stop=stop).run() == 0
    assert endings(queue) == ["requeued"]
    assert issubclass(StepCut, BaseException)


@pytest.mark.parametrize(
    ("requested", "result"),
    [
        (
            "trial stopped",
            Result(AttemptState.FAILED, reason="stopped by a person", attributes={"cause": "person"}),
        ),
        ("worker leaves", Result(AttemptState.REQUEUED, reason="requeued: the worker was asked to leave")),
        ("paused", Result(AttemptState.REQUEUED, reason="requeued: the study is paused")),
        ("stopped", Result(AttemptState.REQUEUED, reason="requeued: the study is stopped")),
    ],
)
def test_what_people_request_ends_the_attempt_at_its_next_event(
    requested: Requested, result: Result, tmp_path: Path
) -> None:
    queue = a_queue(1)

    def request(event: Event) -> None:
        if queue.held is not None:
            queue.held.request = requested
            queue.refusals = [Refusal.STOPPED]

    listener = Listener(request)
    assert a_slot(queue, tmp_path, observers=[listener]).run() == (result.state == "failed")
    assert queue.results == {0: result}
    assert len(listener.events) == 1


def test_a_trial_whose_lease_is_lost_is_dropped_and_the_slot_goes_on(tmp_path: Path) -> None:
    queue = a_queue(2)

    def lose(event: Event) -> None:
        if queue.held is not None and queue.held.lease.lease_id == 1:
            queue.held.lost = True

    listener = Listener(lose)
    assert a_slot(queue, tmp_path, observers=[listener]).run() == 1
    assert endings(queue) == ["complete"]
    assert [(number, state) for number, state, _ in listener.ended] == [(0, "lost"), (1, "complete")]


def test_while_the_lease_is_uncertain_observers_hear_nothing(tmp_path: Path) -> None:
    queue = a_queue(1)
    heard: list[int] = []

    def doubtful(config: TrialConfig, directory: Path) -> Iterator[Event]:
        assert queue.held is not None
        queue.held.certain = False
        for event in train(config, directory):
            yield event
            heard.append(len(listener.events))
        queue.held.certain = True

    listener = Listener()
    assert a_slot(queue, tmp_path, train=doubtful, observers=[listener]).run() == 1
    assert set(heard) == {0}
    assert len(listener.events) == 9  # all of them, before the end


def failing(error: Exception) -> Callable[[TrialConfig, Path], Iterator[Event]]:
    def train(config: TrialConfig, directory: Path) -> Iterator[Event]:
        yield a_fold_start()
        raise error

    return train


def test_three_failed_trials_in_a_row_end_the_worker(tmp_path: Path) -> None:
    queue = a_queue(9)
    broken = failing(DataError("a row is missing", where="train.csv"))
    with pytest.raises(TrainingError, match=r"3 trials in a row failed; the last: train\.csv: a row is"):
        a_slot(queue, tmp_path, train=broken).run()
    assert endings(queue) == ["failed"] * 3
    assert "DataError" in queue.results[0].attributes["traceback"]


def test_failures_that_the_values_are_to_blame_for_do_not_end_the_worker(tmp_path: Path) -> None:
    queue = a_queue(5)
    assert a_slot(queue, tmp_path, train=failing(NonFiniteLossError("the loss became nan"))).run() == 5
    assert endings(queue) == ["failed"] * 5


def test_infeasible_draws_are_drawn_again(tmp_path: Path) -> None:
    queue, listener = a_queue(2), Listener()
    errors = [MemoryPlanError("too large", excess=0.5) for _ in range(3)]

    def admit(config: TrialConfig) -> None:
        if errors:
            raise errors.pop()

    assert a_slot(queue, tmp_path, admit=admit, observers=[listener]).run() == 2
    assert endings(queue) == ["infeasible"] * 3 + ["complete"] * 2
    assert queue.results[0].excess == 0.5
    assert [number for number, *_ in listener.ended] == [3, 4]  # of the others observers hear nothing


def test_too_many_infeasible_draws_in_a_row_end_the_worker(tmp_path: Path) -> None:
    def admit(config: TrialConfig) -> None:
        raise MemoryPlanError("too large")

    queue = a_queue(2)
    with pytest.raises(MemoryPlanError, match=f"{MOST_INFEASIBLE} draws in a row did not fit"):
        a_slot(queue, tmp_path, admit=admit).run()
    assert endings(queue) == ["infeasible"] * MOST_INFEASIBLE


def test_an_outage_is_waited_for_at_every_step(tmp_path: Path) -> None:
    queue = a_queue(1)
    queue.faults = {name: [away()] for name in ("recover", "claim", "start", "end", "ended_trials")}
    assert a_slot(queue, tmp_path).run() == 1
    assert endings(queue) == ["complete"]
    tokens = [call[1] for call in queue.calls if call[0] == "claim"]
    assert tokens[0] == tokens[1] != tokens[2]  # the claim that was cut off is asked for again
    assert [call for call in queue.calls if call[0] == "start"] == [("start",)] * 2


def test_a_database_that_stays_away_ends_the_slot_unless_it_is_asked_to_stop(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    queue = a_queue(1)
    queue.patience.most_s = queue.patience.stopping_s = 0.0
    queue.faults = {"claim": [away(), away()]}
    with pytest.raises(StorageAwayError, match="the database was away for 0 s"):
        a_slot(queue, tmp_path).run()

    stop, listener = Stop(), Listener(lambda event: stop.request())
    queue.faults = {"end": [away()]}
    assert a_slot(queue, tmp_path, stop=stop, observers=[listener]).run() == 0
    assert listener.ended == [(0, "lost", "the database was away for 0 s: gone")]
    assert "nothing could be requeued; leases end by themselves" in caplog.text


def test_a_sampler_that_fails_releases_the_claim_and_ends_the_worker(tmp_path: Path) -> None:
    queue = a_queue(1)
    queue.faults = {"start": [ZeroDivisionError("in the sampler")]}
    with pytest.raises(ZeroDivisionError, match="in the sampler"):
        a_slot(queue, tmp_path).run()
    assert [name for name, *_ in queue.calls] == ["recover", "claim", "start", "release"]


@pytest.mark.parametrize(
    ("error", "ending"),
    [
        (RankLostError("rank 1 is gone"), "lost"),
        (ArtifactError("cannot be made"), "requeued"),
        (PretrainedError("the model hub could not be reached"), "requeued"),
    ],
)
def test_a_lost_rank_store_or_hub_ends_the_worker_once_the_trial_is_requeued(
    error: HmsTuneError, ending: str, tmp_path: Path
) -> None:
    queue = a_queue(1)
    with pytest.raises(type(error), match=str(error)):
        a_slot(queue, tmp_path, train=failing(error)).run()
    assert endings(queue) == [ending]


def test_a_trial_that_is_pruned_ends_with_its_attributes(tmp_path: Path) -> None:
    class Pruner(optuna.pruners.BasePruner):
        def prune(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> bool:
            return True

    queue = a_queue(1)
    queue.study.pruner = Pruner()
    assert a_slot(queue, tmp_path).run() == 1
    assert queue.results == {0: Result(AttemptState.PRUNED, reason="pruned", attributes={"seconds": 2.0})}


def test_a_reason_is_written_in_letters_that_a_database_takes() -> None:
    path = b"/data/M\xfcnster".decode("utf-8", "surrogateescape")
    result = failed_result(ValueError(f"{path}: a zero \0 and 東京"), None, redraws=True)
    assert result.reason == "ValueError: /data/M\\udcfcnster: a zero \\x00 and 東京"
    assert "\\udcfc" in result.attributes["traceback"]
