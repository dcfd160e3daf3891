"""A slot against a real PostgreSQL, with a fake in the place of training."""

from __future__ import annotations

import threading
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import optuna
import pytest
import torch
from optuna.samplers._tpe import sampler as tpe
from optuna.trial import TrialState as OptunaState
from slots import a_slot
from sqlalchemy import event, func, select, update
from stories import a_fold_end, a_fold_start, an_ending, an_epoch

from hms_tune.config.study_file import StudyFile
from hms_tune.config.trial import TrialConfig
from hms_tune.database.connect import Storage, open_storage
from hms_tune.database.tables import attempts, seconds_from_now
from hms_tune.errors import DataError, NonFiniteLossError, TrainingError
from hms_tune.studies.control import set_state
from hms_tune.studies.enqueue import enqueue
from hms_tune.studies.status import list_studies, show_trials, status
from hms_tune.studies.trial_record import trial_record
from hms_tune.training.checkpoint import read_newest_checkpoint, write_checkpoint
from hms_tune.training.events import (
    CheckpointWritten,
    CrossValidationEnded,
    EpochEnded,
    Event,
    FoldStarted,
)
from hms_tune.training.observer import TrialInfo
from hms_tune.trial_state import AttemptState, TrialState
from hms_tune.worker.open_study import join_search
from hms_tune.worker.slot import Slot
from hms_tune.worker.stop import Stop

Train = Callable[[TrialConfig, Path], Iterator[Event]]

STUDY = """
study: {name}
data: {{folds: 2}}
training: {{epochs: 3, learning_rate: {{low: 1.0e-4, high: 1.0e-2, log: true}}}}
model: {{backbone: test_resnet, pretrained: false}}
search: {{sampler: {sampler}, pruner: {pruner}}}
budget: {{trials: {trials}}}
"""


def study_file(name: str, *, trials: int = 4, sampler: str = "random", pruner: str = "none") -> StudyFile:
    return StudyFile.parse(STUDY.format(name=name, trials=trials, sampler=sampler, pruner=pruner), "test")


def score(config: TrialConfig) -> float:
    """Any fixed function of the configuration."""
    return 1.0 + config.training.learning_rate


def epoch(fold: int, number: int, kl: float, *, replayed: bool = False) -> EpochEnded:
    return an_epoch(fold, number, kl=kl, seconds=0.5, replayed=replayed)


def train(config: TrialConfig, directory: Path) -> Iterator[Event]:
    """Two folds of three epochs, with a checkpoint after each, that go on where they stopped."""
    saved = read_newest_checkpoint(directory)
    done = -1 if saved is None else int(saved["step"])
    kl = score(config)
    for fold in range(2):
        yield a_fold_start(fold)
        for number in range(3):
            step = 3 * fold + number
            replayed = step <= done
            yield epoch(fold, number, kl + 0.1 * (3 - number), replayed=replayed)
            if not replayed:
                path = write_checkpoint(directory, step, {"step": step})
                yield CheckpointWritten(path=path, fold=fold, epoch=number)
        yield a_fold_end(fold, kl=kl)
    yield an_ending(kl)


class Recorder:
    """Keeps what it is told, and calls ``at_event`` with each event."""

    def __init__(self, at_event: Callable[[TrialInfo, Event], None] = lambda trial, event: None) -> None:
        self.started: list[TrialInfo] = []
        self.events: list[Event] = []
        self.ended: list[tuple[int, AttemptState, float | None, str | None]] = []
        self._at_event = at_event

    def trial_started(self, trial: TrialInfo) -> None:
        self.started.append(trial)

    def event(self, trial: TrialInfo, event: Event) -> None:
        self.events.append(event)
        self._at_event(trial, event)

    def trial_ended(
        self, trial: TrialInfo, state: AttemptState, value: float | None, reason: str | None
    ) -> None:
        self.ended.append((trial.attempt, state, value, reason))

    def close(self) -> None: ...


def slot(
    storage: Storage,
    file: StudyFile,
    folder: Path,
    *,
    train: Train = train,
    recorder: Recorder | None = None,
    stop: Stop | None = None,
    name: str = "cpu",
    look_s: float = 0.0,
) -> Slot:
    observers = [] if recorder is None else [recorder]
    search = join_search(storage, file)
    return a_slot(
        storage,
        search,
        train,
        folder,
        name=name,
        observers=observers,
        stop=stop or Stop(),
        look_s=look_s,
    )


def test_a_slot_runs_the_budget_and_writes_what_each_trial_was(
    storage: Storage, study_name: str, tmp_path: Path
) -> None:
    recorder = Recorder()
    assert slot(storage, study_file(study_name), tmp_path, recorder=recorder).run() == 4
    trials = show_trials(storage, study_name)
    assert [trial.state for trial in trials] == ["complete"] * 4
    first = trials[0]
    assert first.value == 1.0 + first.params["training.learning_rate"]
    assert first.attributes["fold_kl"] == [first.value, first.value]
    assert first.attributes["best_epochs"] == [1, 2]
    assert first.attributes["kl_high_vote"] is None
    assert first.attributes["seconds"] == 3.0
    config = trial_record(storage, study_name, first.attempt).config
    assert TrialConfig.model_validate(config).hash == first.attributes["config_hash"]
    assert first.reported == {1: first.value + 0.3, 2: first.value + 0.2, 3: first.value + 0.1} | {
        4: first.value + 0.3,
        5: first.value + 0.2,
        6: first.value + 0.1,
    }
    assert [ended[:2] for ended in recorder.ended] == [(number, "complete") for number in range(4)]
    assert Counter(type(event) for event in recorder.events)[EpochEnded] == 24


def test_only_the_best_trials_checkpoints_are_kept(storage: Storage, study_name: str, tmp_path: Path) -> None:
    slot(storage, study_file(study_name), tmp_path).run()
    best = status(storage, study_name).best
    assert best is not None
    assert [path.name for path in (tmp_path / study_name).iterdir()] == [f"trial-{best.trial}"]


def test_three_slots_share_one_budget(
    database_url: str, storage: Storage, study_name: str, tmp_path: Path
) -> None:
    file = study_file(study_name, trials=9)

    def work(number: int) -> int:
        own = open_storage(database_url)
        try:
            return slot(own, file, tmp_path, name=f"cpu-{number}").run()
        finally:
            own.close()

    with ThreadPoolExecutor(3) as pool:
        assert sum(pool.map(work, range(3))) == 9
    current = status(storage, study_name)
    assert current.attempts == dict.fromkeys(AttemptState, 0) | {AttemptState.COMPLETE: 9}
    assert current.trials["complete"] == 9
    values = [trial.params["training.learning_rate"] for trial in show_trials(storage, study_name)]
    assert len(set(values)) == 9
    assert [summary.trials for summary in list_studies(storage) if summary.study == study_name] == [
        current.trials
    ]


def test_a_grid_gives_each_cell_once_though_trials_are_requeued_and_lost(
    storage: Storage, study_name: str, tmp_path: Path
) -> None:
    text = STUDY.format(name=study_name, trials=50, sampler="grid", pruner="none").replace(
        "{low: 1.0e-4, high: 1.0e-2, log: true}", "{choices: [0.001, 0.002, 0.003, 0.004]}"
    )
    file = StudyFile.parse(text, "test")
    stop = Stop()

    def interrupt(trial: TrialInfo, event: Event) -> None:
        if trial.attempt == 1:
            stop.request()

    slot(storage, file, tmp_path, recorder=Recorder(interrupt), stop=stop).run()
    assert slot(storage, file, tmp_path).run() == 3
    complete = [trial for trial in show_trials(storage, study_name) if trial.state == "complete"]
    assert sorted(trial.params["training.learning_rate"] for trial in complete) == [
        0.001,
        0.002,
        0.003,
        0.004,
    ]
    assert status(storage, study_name).budget_trials == 4


def test_a_stopped_slot_hands_its_trial_back_and_the_next_goes_on_from_the_checkpoint(
    storage: Storage, study_name: str, tmp_path: Path
) -> None:
    file = study_file(study_name, trials=1)
    stop = Stop()

    def interrupt(_trial: TrialInfo, event: Event) -> None:
        if isinstance(event, EpochEnded) and (event.fold, event.epoch) == (0, 1):
            stop.request()

    first = Recorder(interrupt)
    assert slot(storage, file, tmp_path, recorder=first, stop=stop).run() == 0
    assert first.ended[0][:2] == (0, "requeued")
    assert isinstance(first.events[-1], CheckpointWritten)  # the epoch was not thrown away

    second = Recorder()
    assert slot(storage, file, tmp_path, recorder=second).run() == 1
    assert (second.started[0].attempt, second.started[0].trial) == (1, 0)
    assert second.started[0].config == first.started[0].config
    replayed = [event for event in second.events if isinstance(event, EpochEnded) and event.replayed]
    assert [(event.fold, event.epoch) for event in replayed] == [(0, 0), (0, 1)]
    lost, complete = show_trials(storage, study_name)
    assert (lost.state, lost.reason) == ("requeued", "requeued: the worker was asked to stop")
    assert (complete.value, complete.trial) == (score(first.started[0].config), 0)
    ended = {TrialState.COMPLETE: 1}
    assert status(storage, study_name).trials == dict.fromkeys(TrialState, 0) | ended


@pytest.mark.parametrize("wanted", ["paused", "stopped"])
def test_a_study_that_is_paused_or_stopped_takes_its_trial_back(
    storage: Storage, study_name: str, tmp_path: Path, wanted: str
) -> None:
    file = study_file(study_name, trials=2)

    def interrupt(_trial: TrialInfo, event: Event) -> None:
        if isinstance(event, EpochEnded) and event.fold == 0 and event.epoch == 0:
            set_state(storage, study_name, "paused" if wanted == "paused" else "stopped")

    recorder = Recorder(interrupt)
    waiting = threading.Event()

    class Watched(Stop):
        def wait(self, seconds: float) -> bool:
            waiting.set()
            return super().wait(seconds)

    stop = Watched()
    running = slot(storage, file, tmp_path, recorder=recorder, stop=stop)
    with ThreadPoolExecutor(1) as pool:
        ended = pool.submit(running.run)
        if wanted == "paused":
            assert waiting.wait(20.0)
            stop.request()
        ended.result(timeout=20.0)
    assert recorder.ended == [(0, "requeued", recorder.ended[0][2], f"requeued: the study is {wanted}")]
    current = status(storage, study_name)
    assert (current.state, current.trials["waiting"]) == (wanted, 1)
    set_state(storage, study_name, "running")
    assert slot(storage, file, tmp_path).run() == 2


def test_pruned_trials_are_told_as_pruned(storage: Storage, study_name: str, tmp_path: Path) -> None:
    pruner = "{name: median, startup_trials: 1, warmup_epochs: 0}"
    slot(storage, study_file(study_name, trials=8, pruner=pruner), tmp_path).run()
    trials = show_trials(storage, study_name)
    counted = Counter(trial.state for trial in trials)
    assert counted["pruned"] >= 1
    assert counted["pruned"] + counted["complete"] == 8
    pruned = next(trial for trial in trials if trial.state == "pruned")
    assert pruned.value is None
    assert pruned.estimate is not None
    step = max(pruned.reported)
    assert pruned.estimate.fold == -(-step // 3)
    assert pruned.estimate.value < pruned.reported[step]  # a complete trial's last epoch was its best


def test_three_failures_in_a_row_end_the_worker_and_each_has_its_traceback(
    storage: Storage, study_name: str, tmp_path: Path
) -> None:
    def broken(config: TrialConfig, directory: Path) -> Iterator[Event]:
        yield a_fold_start()
        raise DataError("a file is missing", where="train_eegs/1.parquet", hint="Run hms-tune data check")

    with pytest.raises(TrainingError, match="3 trials in a row failed; the last: train_eegs"):
        slot(storage, study_file(study_name, trials=9), tmp_path, train=broken).run()
    trials = show_trials(storage, study_name)
    assert [trial.state for trial in trials] == ["failed"] * 3
    assert trials[0].reason == "train_eegs/1.parquet: a file is missing. Run hms-tune data check"
    assert "in broken" in (trial_record(storage, study_name, trials[0].attempt).traceback or "")


@pytest.mark.parametrize("kl", [float("nan"), float("inf")])
def test_a_kl_that_is_no_number_fails_the_trial_and_the_search_goes_on(
    storage: Storage, study_name: str, tmp_path: Path, kl: float
) -> None:
    def diverging(config: TrialConfig, directory: Path) -> Iterator[Event]:
        yield an_ending(kl)

    assert slot(storage, study_file(study_name, trials=5), tmp_path, train=diverging).run() == 5
    trials = show_trials(storage, study_name)
    assert [(trial.state, trial.reason) for trial in trials] == [("failed", f"the trial's KL is {kl}")] * 5


def test_a_trial_that_a_person_fails_in_the_dashboard_ends_and_the_slot_goes_on(
    storage: Storage, study_name: str, tmp_path: Path
) -> None:
    def fail_the_first(trial: TrialInfo, event: Event) -> None:
        if trial.attempt == 0 and isinstance(event, FoldStarted) and event.fold == 0:
            study_id = storage.optuna.get_study_id_from_name(study_name)
            trial_id = storage.optuna.get_trial_id_from_study_id_trial_number(study_id, 0)
            storage.optuna.set_trial_state_values(trial_id, OptunaState.FAIL)

    recorder = Recorder(fail_the_first)
    assert slot(storage, study_file(study_name, trials=2), tmp_path, recorder=recorder).run() == 2
    assert [ended[:2] for ended in recorder.ended] == [(0, "failed"), (1, "complete")]
    assert recorder.ended[0][3] == "ended by a person in the dashboard"


def test_a_slot_that_lost_its_lease_drops_the_trial(
    database_url: str, storage: Storage, study_name: str, tmp_path: Path
) -> None:
    file = study_file(study_name, trials=1)
    other = open_storage(database_url)
    taken = Recorder()

    def steal(trial: TrialInfo, event: Event) -> None:
        if trial.attempt == 0 and isinstance(event, EpochEnded) and (event.fold, event.epoch) == (1, 0):
            with other.engine.begin() as connection:
                connection.execute(
                    update(attempts)
                    .where(attempts.c.ended_at.is_(None))
                    .values(expires_at=seconds_from_now(-1))
                )
            assert slot(other, file, tmp_path, recorder=taken, name="thief").run() == 1

    loser = Recorder(steal)
    assert slot(storage, file, tmp_path, recorder=loser).run() == 0
    assert loser.ended[-1][:2] == (0, "lost")
    assert taken.ended == [(1, "complete", score(taken.started[0].config), None)]
    lost, complete = show_trials(storage, study_name)
    assert (lost.state, lost.reason) == ("lost", "lease lost")
    assert complete.state == "complete"
    assert max(lost.reported) == 3  # nothing after the loss
    other.close()


def test_enqueued_values_are_tried_first(storage: Storage, study_name: str, tmp_path: Path) -> None:
    file = study_file(study_name, trials=2)
    join_search(storage, file)
    assert enqueue(storage, study_name, {"training.learning_rate": "0.005"}) == (
        {"training.learning_rate": 0.005},
        0,
    )
    slot(storage, file, tmp_path).run()
    rates = [trial.params["training.learning_rate"] for trial in show_trials(storage, study_name)]
    assert rates[0] == 0.005
    assert rates[1] != 0.005


def test_dropped_connections_lose_no_trial_and_no_report(
    database_url: str, storage: Storage, study_name: str, tmp_path: Path
) -> None:
    own = open_storage(database_url)  # its own pool, so that no other test's connections are dropped
    dropped = []

    def drop(_trial: TrialInfo, event: Event) -> None:
        if isinstance(event, EpochEnded | CrossValidationEnded):
            pids = [
                connection.info.backend_pid
                for record in own.engine.pool._pool.queue  # type: ignore[attr-defined]
                if (connection := record.dbapi_connection) is not None and not connection.closed
            ]
            with storage.engine.begin() as connection:
                for pid in pids:
                    connection.execute(select(func.pg_terminate_backend(pid)))
            dropped.extend(pids)

    assert slot(own, study_file(study_name, trials=2), tmp_path, recorder=Recorder(drop)).run() == 2
    assert len(dropped) >= 14
    trials = show_trials(storage, study_name)
    assert [(trial.state, len(trial.reported)) for trial in trials] == [("complete", 6)] * 2
    own.close()


def test_cuda_out_of_memory_is_infeasible_frees_what_it_held_and_the_sampler_is_told(
    storage: Storage, study_name: str, tmp_path: Path
) -> None:
    class Tensor:
        """Stands for what a trial holds on the device."""

    held: list[weakref.ref[Tensor]] = []
    still_held_at_start = []

    def hungry(config: TrialConfig, directory: Path) -> Iterator[Event]:
        still_held_at_start.append(sum(reference() is not None for reference in held))
        tensor = Tensor()
        tensor.itself = tensor  # type: ignore[attr-defined]  # a cycle, as between a network and its hooks
        held.append(weakref.ref(tensor))
        yield epoch(0, 0, 0.01)  # the best value of all, were it feasible
        if len(held) <= 4:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        yield an_ending(1.0)

    assert slot(storage, study_file(study_name, trials=2), tmp_path, train=hungry).run() == 2
    assert still_held_at_start[:5] == [0] * 5  # the sixth follows a complete trial
    trials = show_trials(storage, study_name)
    assert [trial.state for trial in trials] == ["infeasible"] * 4 + ["complete"] * 2
    assert trials[0].reason == "out of device memory at batch size 32"
    assert "torch.OutOfMemoryError" in (trial_record(storage, study_name, trials[0].attempt).traceback or "")
    study = optuna.load_study(study_name=study_name, storage=storage.optuna)
    assert [sum(trial.constraints.values()) > 0.0 for trial in study.trials] == [True] * 4 + [False] * 2
    # what TPE makes of it: the feasible trial is the good one, though its value is worse
    below, above = tpe._split_trials(study, study.trials, 1)
    assert [trial.number for trial in below] == [4]
    assert sorted(trial.number for trial in above) == [0, 1, 2, 3, 5]


def test_non_finite_loss_ends_its_trial_and_is_no_failure_of_the_worker(
    storage: Storage, study_name: str, tmp_path: Path
) -> None:
    def diverging(config: TrialConfig, directory: Path) -> Iterator[Event]:
        yield epoch(0, 0, 1.0)
        raise NonFiniteLossError("the loss became nan", where="fold 0, epoch 1", hint="Lower it")

    assert slot(storage, study_file(study_name, trials=5), tmp_path, train=diverging).run() == 5
    trials = show_trials(storage, study_name)
    assert [(trial.state, trial.reason) for trial in trials] == [
        ("failed", "fold 0, epoch 1: the loss became nan. Lower it")
    ] * 5


def test_an_error_in_the_code_keeps_its_traceback_and_the_search_goes_on(
    storage: Storage, study_name: str, tmp_path: Path
) -> None:
    calls = []

    def broken_twice(config: TrialConfig, directory: Path) -> Iterator[Event]:
        calls.append(config)
        if len(calls) in (1, 2, 4, 5):
            raise ZeroDivisionError("division by zero")
        yield from train(config, directory)

    assert slot(storage, study_file(study_name, trials=6), tmp_path, train=broken_twice).run() == 6
    trials = show_trials(storage, study_name)
    assert [trial.state for trial in trials] == ["failed", "failed", "complete"] * 2
    assert trials[0].reason == "ZeroDivisionError: division by zero"
    assert "in broken_twice" in (trial_record(storage, study_name, trials[0].attempt).traceback or "")


def test_what_is_lost_while_it_gets_further_is_not_set_aside(
    database_url: str, storage: Storage, study_name: str, tmp_path: Path
) -> None:
    file = study_file(study_name, trials=1)

    class Gone(BaseException):
        """The process is killed."""

    for attempt in range(5):

        def die(_trial: TrialInfo, event: Event, attempt: int = attempt) -> None:
            number = 3 * event.fold + event.epoch if isinstance(event, CheckpointWritten) else -1
            if number == attempt:
                raise Gone

        with pytest.raises(Gone):
            slot(storage, file, tmp_path, recorder=Recorder(die)).run()
        with storage.engine.begin() as connection:
            connection.execute(
                update(attempts).where(attempts.c.ended_at.is_(None)).values(expires_at=seconds_from_now(-1))
            )
    assert slot(storage, file, tmp_path).run() == 1
    trials = show_trials(storage, study_name)
    assert [trial.state for trial in trials] == ["lost"] * 5 + ["complete"]
    assert {trial.reason for trial in trials[:5]} == {"lease lost"}


def test_a_loss_after_which_nothing_was_reported_does_not_make_the_next_one_get_further(
    storage: Storage, study_name: str, tmp_path: Path
) -> None:
    file = study_file(study_name, trials=1)

    class Gone(BaseException):
        """The process is killed."""

    def die(_trial: TrialInfo, event: Event) -> None:
        if isinstance(event, EpochEnded) and not event.replayed and event.epoch == 1:
            raise Gone

    for look_s in (60.0, 60.0, 0.0):  # the second is gone before it writes what it replayed
        with pytest.raises(Gone):
            slot(storage, file, tmp_path, recorder=Recorder(die), look_s=look_s).run()
        with storage.engine.begin() as connection:
            connection.execute(
                update(attempts).where(attempts.c.ended_at.is_(None)).values(expires_at=seconds_from_now(-1))
            )
    assert slot(storage, file, tmp_path).run() == 0
    trials = show_trials(storage, study_name)
    assert [(trial.state, list(trial.reported)) for trial in trials] == [
        ("lost", [1]),
        ("lost", []),
        ("lost", [1]),
    ]
    assert trials[-1].reason == "set aside: 3 workers were lost with it"


@pytest.mark.parametrize("state", ["complete", "failed", "requeued"])
def test_reports_that_follow_one_another_soon_are_written_together_and_none_is_lost_at_the_end(
    database_url: str, study_name: str, tmp_path: Path, state: str
) -> None:
    own = open_storage(database_url)
    written: list[int] = []

    def note(_connection: object, _cursor: object, statement: str, given: dict[str, list[int]], *_: object):
        if "INSERT INTO trial_intermediate_values" in statement and given["steps"]:
            written.append(len(given["steps"]))

    event.listen(own.engine, "before_cursor_execute", note)
    stop = Stop()

    def quick(config: TrialConfig, directory: Path) -> Iterator[Event]:
        yield a_fold_start(0)
        for number in range(3):
            yield epoch(0, number, 1.0)
        if state == "failed":
            raise ValueError("a bug")
        if state == "requeued":
            stop.request()
        yield a_fold_end(0, kl=1.0)
        yield an_ending(1.0)

    slot(own, study_file(study_name, trials=1), tmp_path, train=quick, stop=stop, look_s=60.0).run()
    own.close()
    assert written == [3]
    own = open_storage(database_url)
    trial = show_trials(own, study_name)[0]
    assert (trial.state, list(trial.reported)) == (state, [1, 2, 3])
    own.close()
