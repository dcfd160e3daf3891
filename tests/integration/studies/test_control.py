"""Control from outside: what commands write, and what slots make of it."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import optuna
import pytest
from slots import a_slot
from sqlalchemy import select, text, update
from stories import a_fold_start, an_ending

from hms_tune.config.study_file import StudyFile
from hms_tune.config.trial import TrialConfig
from hms_tune.database import tables
from hms_tune.database.connect import Storage
from hms_tune.database.queue.attempt import Attempt, Result
from hms_tune.database.queue.claim import Budget, Refusal, claim, register_study
from hms_tune.database.queue.end import end_attempt
from hms_tune.database.queue.lease import Holder, Lease
from hms_tune.database.queue.recovery import SilentLeases, recover
from hms_tune.database.queue.start import begin_attempt
from hms_tune.database.queue.usage import gpu_hours_used
from hms_tune.database.tables import attempts, trials
from hms_tune.errors import ConfigError, UnknownStudyError, UsageError
from hms_tune.machine.processes import this_process
from hms_tune.search.optuna_private import study_id_of
from hms_tune.studies.control import drain, set_state, stop_trial
from hms_tune.studies.enqueue import enqueue
from hms_tune.studies.status import status
from hms_tune.training.events import Event
from hms_tune.trial_state import AttemptState, TrialState
from hms_tune.worker.open_study import join_search
from hms_tune.worker.presence import Presence, announce
from hms_tune.worker.slot import Slot
from studies import show_trials

ME = this_process()
RATE = "training.learning_rate"
STUDY = """
study: {name}
data: {{folds: 2}}
training: {{epochs: 3, learning_rate: {{low: 1.0e-4, high: 1.0e-2, log: true}}}}
model: {{backbone: test_resnet, pretrained: false, dropout: {{low: 0.0, high: 0.5}}}}
search: {{sampler: {sampler}, pruner: none}}
budget: {{trials: {trials}}}
"""


def study_file(name: str, *, trials: int = 4, sampler: str = "random") -> StudyFile:
    return StudyFile.parse(STUDY.format(name=name, trials=trials, sampler=sampler), "test")


def holder(worker: str = "worker", *, gpus: float = 0.0) -> Holder:
    return Holder(worker_id=worker, slot="slot", process=ME, gpus=gpus)


@pytest.fixture
def study(storage: Storage, study_name: str) -> optuna.Study:
    return join_search(storage, study_file(study_name)).study


def claimed(storage: Storage, study: optuna.Study, worker: str = "worker", *, gpus: float = 0.0) -> Lease:
    lease = claim(storage, study_id_of(study), holder(worker, gpus=gpus), lease_s=60.0)
    assert isinstance(lease, Lease), lease
    return lease


def asked(storage: Storage, study: optuna.Study) -> Attempt:
    return begin_attempt(storage, study, claimed(storage, study))


def expire(storage: Storage, lease: Lease) -> None:
    with storage.engine.begin() as connection:
        connection.execute(
            update(attempts)
            .where(attempts.c.lease_id == lease.lease_id)
            .values(expires_at=tables.seconds_from_now(-1))
        )


def trial_of(storage: Storage, lease: Lease) -> tuple[TrialState, str | None]:
    with storage.engine.connect() as connection:
        row = connection.execute(
            select(trials.c.state, trials.c.reason).where(trials.c.trial_id == lease.trial_id)
        ).one()
    return row.state, row.reason


STOPPED = ("failed", "stopped by a person")


def trainer(at_epoch: Callable[[int], None]) -> Callable[[TrialConfig, Path], Iterator[Event]]:
    """A training of five events, which calls ``at_epoch`` before each with the trial's place in the slot."""
    trial = -1

    def train(config: TrialConfig, _directory: Path) -> Iterator[Event]:
        nonlocal trial
        trial += 1
        for _ in range(5):
            at_epoch(trial)
            yield a_fold_start()
        yield an_ending(config.training.learning_rate)

    return train


def slot(
    storage: Storage, file: StudyFile, folder: Path, at_epoch: Callable[[int], None], worker: str = "worker"
) -> Slot:
    return a_slot(storage, join_search(storage, file), trainer(at_epoch), folder, worker=worker)


def test_a_trial_that_a_person_stops_ends_at_its_next_event_and_the_search_goes_on(
    storage: Storage, study_name: str, tmp_path: Path
) -> None:
    seen = []

    def at_epoch(trial: int) -> None:
        seen.append(trial)
        if trial < 3 and seen.count(trial) == 2:
            assert stop_trial(storage, study_name, trial) == "stopping"
            assert [(each.attempt, each.requested) for each in status(storage, study_name).running] == [
                (trial, "stop")
            ]

    # Three stopped in a row: a worker that counted them as failures would end here.
    assert slot(storage, study_file(study_name), tmp_path, at_epoch).run() == 4
    assert Counter(seen) == {0: 2, 1: 2, 2: 2, 3: 5}
    trials = show_trials(storage, study_name)
    assert [(trial.state, trial.reason) for trial in trials] == [
        *[("failed", "stopped by a person")] * 3,
        ("complete", None),
    ]
    assert status(storage, study_name).trials["failed"] == 3
    with pytest.raises(UsageError, match=r"trial 3 has ended \(complete\)"):
        stop_trial(storage, study_name, 3)
    with pytest.raises(UsageError, match="no worker ran a trial 9"):
        stop_trial(storage, study_name, 9)


def test_a_trial_that_is_stopped_between_two_attempts_is_never_taken_up_again(
    storage: Storage, study: optuna.Study
) -> None:
    attempt = asked(storage, study)
    end_attempt(storage, study, attempt, Result(AttemptState.REQUEUED, reason="requeued"))
    assert stop_trial(storage, study.study_name, attempt.number) == "stopped"
    assert trial_of(storage, attempt.lease) == STOPPED
    assert claimed(storage, study).trial_id != attempt.lease.trial_id
    (trial, *_) = show_trials(storage, study.study_name)
    assert trial.reason == "requeued; stopped by a person"


@pytest.mark.parametrize("end", ["requeued", "lost"])
def test_a_stopped_trial_ends_also_when_its_worker_leaves_or_dies_before_it_looks(
    storage: Storage, study: optuna.Study, end: str
) -> None:
    attempt = asked(storage, study)
    assert stop_trial(storage, study.study_name, attempt.number) == "stopping"
    if end == "lost":
        expire(storage, attempt.lease)
        recover(storage, study_id_of(study), ME, SilentLeases(60.0))
    else:
        end_attempt(storage, study, attempt, Result(AttemptState.REQUEUED, reason="requeued"))
    assert trial_of(storage, attempt.lease) == STOPPED
    assert claimed(storage, study).trial_id != attempt.lease.trial_id


def announced(storage: Storage, study: optuna.Study, worker: str) -> Presence:
    return Presence(worker_id=worker, study_id=study_id_of(study), version="1", devices=("cpu",))


def test_a_drained_worker_finishes_its_trial_and_leaves_while_others_go_on(
    storage: Storage, study_name: str, tmp_path: Path
) -> None:
    file = study_file(study_name)
    study = join_search(storage, file).study

    def drain_it(_trial: int) -> None:
        (told,) = drain(storage, study_name, "leav")
        assert told.worker_id == "leaver"
        shown = {worker.worker_id: worker.requested for worker in status(storage, study_name).workers}
        assert shown == {"leaver": "finish", "stayer": "work"}

    with (
        announce(storage, announced(storage, study, "leaver")),
        announce(storage, announced(storage, study, "stayer")),
    ):
        assert slot(storage, file, tmp_path, drain_it, "leaver").run() == 1
        assert (
            claim(storage, study_id_of(study), holder("leaver"), lease_s=60.0) is Refusal.WORKER_LEAVES
        )  # also a slot that was started again
        assert slot(storage, file, tmp_path, lambda trial: None, "stayer").run() == 3
    assert status(storage, study_name).trials["complete"] == 4


def test_a_worker_that_is_drained_at_once_hands_its_trial_back(
    storage: Storage, study_name: str, tmp_path: Path
) -> None:
    file = study_file(study_name, trials=1)
    study = join_search(storage, file).study
    with announce(storage, announced(storage, study, "now-1")):
        leaving = slot(
            storage,
            file,
            tmp_path,
            lambda trial: drain(storage, study_name, ME.host, at_once=True) and None,
            "now-1",
        )
        assert leaving.run() == 0
    (trial,) = show_trials(storage, study_name)
    assert trial.reason == "requeued: the worker was asked to leave"
    assert slot(storage, file, tmp_path, lambda trial: None, "now-2").run() == 1


def test_a_drained_worker_leaves_a_paused_study(storage: Storage, study: optuna.Study) -> None:
    set_state(storage, study.study_name, "paused")
    with announce(storage, announced(storage, study, "idle")):
        assert claim(storage, study_id_of(study), holder("idle"), lease_s=60.0) is Refusal.PAUSED
        drain(storage, study.study_name, "idle")
        assert claim(storage, study_id_of(study), holder("idle"), lease_s=60.0) is Refusal.WORKER_LEAVES


def test_draining_names_the_workers_there_are(storage: Storage, study: optuna.Study) -> None:
    with pytest.raises(UsageError, match="no worker is at it"):
        drain(storage, study.study_name, "x")
    with (
        announce(storage, announced(storage, study, "abc-1")),
        announce(storage, announced(storage, study, "abc-2")),
    ):
        with pytest.raises(UsageError, match='several workers begin with "abc": abc-1, abc-2'):
            drain(storage, study.study_name, "abc")
        with pytest.raises(UsageError, match=r'no worker and no host "abd-1" is at it; nearest.* abc-1'):
            drain(storage, study.study_name, "abd-1")
        assert len(drain(storage, study.study_name, ME.host)) == 2


def test_enqueued_values_are_taken_once_by_many_workers_and_the_rest_is_drawn(
    storage: Storage, study: optuna.Study
) -> None:
    register_study(storage, study.study_name, Budget(trials=12))
    given = [0.001, 0.002, 0.003, 0.004]
    for number, value in enumerate(given):
        assert enqueue(storage, study.study_name, {RATE: str(value)}) == ({RATE: value}, number)
    assert [each[RATE] for each in status(storage, study.study_name).enqueued] == given
    gate = threading.Barrier(6)

    def work(number: int) -> list[tuple[float, float]]:
        gate.wait()
        drawn = []
        while isinstance(
            lease := claim(storage, study_id_of(study), holder(f"w{number}"), lease_s=60.0), Lease
        ):
            attempt = begin_attempt(storage, study, lease)
            rate = attempt.optuna_trial.suggest_float(RATE, 1e-4, 1e-2, log=True)
            drawn.append((rate, attempt.optuna_trial.suggest_float("model.dropout", 0.0, 0.5)))
            end_attempt(storage, study, attempt, Result(AttemptState.COMPLETE, value=1.0))
        return drawn

    with ThreadPoolExecutor(6) as pool:
        drawn = [each for mine in pool.map(work, range(6)) for each in mine]
    rates = Counter(rate for rate, _ in drawn)
    assert len(drawn) == 12
    assert {value: rates[value] for value in given} == dict.fromkeys(given, 1)
    assert len({dropout for _, dropout in drawn}) == 12
    assert status(storage, study.study_name).enqueued == ()


def test_enqueued_values_survive_the_death_of_the_worker_that_took_them(
    storage: Storage, study: optuna.Study
) -> None:
    enqueue(storage, study.study_name, {RATE: "0.005"})
    expire(storage, claimed(storage, study))  # dies before it made a trial
    recover(storage, study_id_of(study), ME, SilentLeases(60.0))
    attempt = asked(storage, study)
    expire(storage, attempt.lease)  # dies before it drew the values
    recover(storage, study_id_of(study), ME, SilentLeases(60.0))
    successor = asked(storage, study)
    assert successor.trial == attempt.trial
    assert successor.optuna_trial.suggest_float(RATE, 1e-4, 1e-2, log=True) == 0.005


@pytest.mark.parametrize(
    ("params", "said"),
    [
        (
            {"training.learning_rat": "0.001"},
            '"training.learning_rat" is not searched .* training.learning_rate',
        ),
        ({RATE: "7"}, "training.learning_rate cannot be 7"),
        ({RATE: "many"}, "training.learning_rate cannot be many"),
    ],
)
def test_values_that_the_space_does_not_hold_are_not_enqueued(
    storage: Storage, study: optuna.Study, params: dict[str, str], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        enqueue(storage, study.study_name, params)
    assert status(storage, study.study_name).trials["waiting"] == 0


def test_enqueued_values_have_a_unit_of_the_budget_or_are_refused(
    storage: Storage, study: optuna.Study
) -> None:
    register_study(storage, study.study_name, Budget(trials=2))
    claimed(storage, study)
    enqueue(storage, study.study_name, {RATE: "0.005"})
    with pytest.raises(UsageError, match="all 2 trials of the budget are taken"):
        enqueue(storage, study.study_name, {RATE: "0.006"})
    claimed(storage, study)
    assert claim(storage, study_id_of(study), holder(), lease_s=60.0) is Refusal.OTHERS_RUNNING
    with pytest.raises(UnknownStudyError) as caught:
        enqueue(storage, "no-such-study", {RATE: "0.005"})
    assert caught.value.hint == "hms-tune study list names those there are"
    with pytest.raises(UnknownStudyError, match=f"Nearest: {study.study_name}; hms-tune study list"):
        enqueue(storage, f"{study.study_name}x", {RATE: "0.005"})


def test_gpu_hours_count_every_attempt_also_killed_ones_and_end_the_search(
    storage: Storage, study: optuna.Study
) -> None:
    name = study.study_name
    register_study(storage, name, Budget(trials=10, gpu_hours=3.0))
    ago = "clock_timestamp() - interval '{} hours'".format

    def spend(gpus: float, begun: float, ended: float | None, expires: float) -> None:
        lease = claimed(storage, study, gpus=gpus)
        with storage.engine.begin() as connection:
            connection.execute(
                update(attempts)
                .where(attempts.c.lease_id == lease.lease_id)
                .values(
                    claimed_at=text(ago(begun)),
                    ended_at=None if ended is None else text(ago(ended)),
                    state=AttemptState.RUNNING if ended is None else AttemptState.FAILED,
                    expires_at=text(ago(expires)),
                )
            )

    def used() -> float:
        with storage.engine.connect() as connection:
            return round(gpu_hours_used(connection, study_id_of(study)), 3)

    spend(0.0, 9, 1, 0)  # on the CPU
    assert used() == 0.0
    spend(1.0, 9, 8.5, 8)  # half an hour
    spend(0.5, 9, 8, 7)  # an hour of half a GPU
    assert used() == 1.0
    spend(1.0, 9, 1, 8.5)  # killed after half an hour at most, found missing seven hours later
    assert used() == 1.5
    spend(1.0, 9, None, 8.5)  # as dead, and nobody has found it yet
    assert used() == 2.0
    spend(4.0, 0.5, None, -1)  # four GPUs, still at work, so that it grows meanwhile
    four = pytest.approx(4.0, abs=0.1)
    assert used() == four
    assert claim(storage, study_id_of(study), holder(), lease_s=60.0) is Refusal.OUT_OF_GPU_HOURS
    assert status(storage, name).budget_gpu_hours == 3.0
    assert status(storage, name).gpu_hours == four
    register_study(storage, name, Budget(trials=10, gpu_hours=5.0))
    claimed(storage, study)
