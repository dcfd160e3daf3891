"""Trials that pause at rungs and are promoted, on a real database, with a fake in the place of training."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState as OptunaState
from slots import StopAfter, a_slot
from sqlalchemy import select, update
from stories import a_fold_end, a_fold_start, an_ending, an_epoch

from hms_tune.config.study_file import StudyFile
from hms_tune.config.trial import TrialConfig
from hms_tune.database.connect import Storage
from hms_tune.database.queue.promote import GIVEN_UP
from hms_tune.database.tables import attempts, rungs, studies, trials
from hms_tune.studies.control import stop_trial
from hms_tune.studies.status import list_studies, status
from hms_tune.studies.trial_record import study_record
from hms_tune.training.checkpoint import read_newest_checkpoint, write_checkpoint
from hms_tune.training.events import CheckpointWritten, Event
from hms_tune.trial_state import AttemptState, TrialState
from hms_tune.worker.open_study import join_search
from hms_tune.worker.stop import Stop
from studies import show_trials

STUDY = """
study: {name}
data: {{folds: 2}}
training: {{epochs: 4, learning_rate: {{low: 1.0e-4, high: 1.0e-2, log: true}}}}
model: {{backbone: test_resnet, pretrained: false}}
search: {{sampler: {sampler}, scheduler: {{name: promotion, reduction_factor: 2, rungs: [0.125, 0.5]}}}}
budget: {{trials: {trials}{more}}}
"""
"""Trials of eight epochs that pause after the first and after the fourth."""


def study_file(name: str, *, trials: int = 8, sampler: str = "random", more: str = "") -> StudyFile:
    return StudyFile.parse(STUDY.format(name=name, trials=trials, sampler=sampler, more=more), "test")


class Training:
    """Two folds of four epochs that go on where they stopped; the smallest learning rate is the best."""

    def __init__(self) -> None:
        self.trained: Counter[float] = Counter()

    def __call__(self, config: TrialConfig, directory: Path) -> Iterator[Event]:
        saved = read_newest_checkpoint(directory)
        done = -1 if saved is None else int(saved["step"])
        rate = config.training.learning_rate
        kl = 1.0 + 10 * rate
        for fold in range(2):
            yield a_fold_start(fold, replayed=4 * fold <= done)
            for number in range(4):
                step = 4 * fold + number
                replayed = step <= done
                self.trained[rate] += not replayed
                yield an_epoch(fold, number, kl=kl + 0.1 * (3 - number), replayed=replayed)
                if not replayed:
                    path = write_checkpoint(directory, step, {"step": step})
                    yield CheckpointWritten(path=path, fold=fold, epoch=number)
            yield a_fold_end(fold, kl=kl, replayed=4 * fold + 3 < done)
        yield an_ending(kl)


def run(storage: Storage, file: StudyFile, folder: Path, training: Training, **setup: object) -> int:
    return a_slot(storage, join_search(storage, file), training, folder / "checkpoints", **setup).run()


def test_the_best_of_a_rung_go_on_and_the_rest_are_given_up(
    storage: Storage, study_name: str, tmp_path: Path
) -> None:
    training = Training()
    run(storage, study_file(study_name), tmp_path, training)
    now = status(storage, study_name)
    assert now.trials[TrialState.COMPLETE] >= 1
    assert now.trials[TrialState.COMPLETE] + now.trials[TrialState.PRUNED] == 8
    best = min(training.trained)
    assert now.best is not None
    assert now.best.params["training.learning_rate"] == best
    assert training.trained[best] == 8  # no epoch twice, however often it paused
    assert sum(training.trained.values()) < 8 * 8 * 0.7
    assert {count for rate, count in training.trained.items() if rate != best} <= {1, 4, 8}


def test_a_trial_that_lost_its_worker_between_the_checkpoint_of_a_rung_and_the_pause_still_pauses_there(
    storage: Storage, study_name: str, tmp_path: Path
) -> None:
    stop, training = Stop(), Training()

    def cut(config: TrialConfig, directory: Path) -> Iterator[Event]:
        yield a_fold_start()
        path = write_checkpoint(directory, 0, {"step": 0})
        stop.request()
        yield CheckpointWritten(path=path, fold=0, epoch=0)  # its epoch was not told

    file = study_file(study_name, trials=1)
    search = join_search(storage, file)
    a_slot(storage, search, cut, tmp_path / "checkpoints", stop=stop).run()
    once = StopAfter(1)
    a_slot(storage, search, training, tmp_path / "checkpoints", stop=once.stop, observers=[once]).run()
    states = [trial.state for trial in show_trials(storage, study_name)]
    assert states == [AttemptState.REQUEUED, AttemptState.PAUSED]
    assert sum(training.trained.values()) == 0
    a_slot(storage, search, training, tmp_path / "checkpoints").run()
    assert sum(training.trained.values()) == 7  # of eight epochs, the first one is in the checkpoint


def test_nothing_remains_of_a_trial_that_was_given_up_but_its_record(
    storage: Storage, study_name: str, tmp_path: Path
) -> None:
    run(storage, study_file(study_name), tmp_path, Training())
    record = study_record(storage, study_name)
    assert len(record.trials) == 8
    assert {trial.state for trial in record.trials} == {AttemptState.COMPLETE, AttemptState.PRUNED}
    assert {trial.reason for trial in record.trials if trial.state is AttemptState.PRUNED} == {GIVEN_UP}
    kept = {path.parents[1].name for path in (tmp_path / "checkpoints").rglob("*") if path.is_file()}
    assert len(kept) <= 1  # the best one's


def test_optunas_view_has_no_partial_score_as_best_and_shows_every_curve(
    storage: Storage, study_name: str, tmp_path: Path
) -> None:
    run(storage, study_file(study_name), tmp_path, Training())
    study = optuna.load_study(study_name=study_name, storage=storage.optuna)
    states = Counter(trial.state for trial in study.trials)
    assert set(states) == {OptunaState.COMPLETE, OptunaState.PRUNED}
    assert study.best_trial.last_step == 8
    assert all(trial.intermediate_values for trial in study.trials)
    paused = [trial for trial in study.trials if trial.user_attrs["attempt_state"] == "paused"]
    assert {trial.last_step for trial in paused} == {1, 4}


def test_four_slots_share_the_rungs_and_no_trial_is_run_twice(
    storage: Storage, study_name: str, tmp_path: Path
) -> None:
    training, file = Training(), study_file(study_name, trials=16)
    with ThreadPoolExecutor(4) as pool:
        slots = [
            pool.submit(run, storage, file, tmp_path, training, worker=f"worker{number}")
            for number in range(4)
        ]
        for slot in slots:
            slot.result()
    now = status(storage, study_name)
    assert now.trials[TrialState.COMPLETE] + now.trials[TrialState.PRUNED] == 16
    assert now.trials[TrialState.PAUSED] == now.trials[TrialState.WAITING] == 0
    assert max(training.trained.values()) == 8
    with storage.transaction() as connection:
        reached = connection.execute(
            select(rungs.c.trial_id, rungs.c.step)
            .join(trials)
            .where(trials.c.study_id == join_search(storage, file).study_id)
        ).all()
    assert Counter(row.step for row in reached)[1] == 16


def test_the_model_of_learning_curves_draws_better_configurations(
    storage: Storage, study_name: str, tmp_path: Path
) -> None:
    training = Training()
    run(storage, study_file(study_name, trials=24, sampler="learning_curves"), tmp_path, training)
    rates = list(training.trained)
    assert sum(rate < 3e-4 for rate in rates[12:]) > sum(rate < 3e-4 for rate in rates[:8])


@pytest.mark.parametrize("sampler", ["tpe", "gp"])
def test_optunas_samplers_see_each_trial_once(
    storage: Storage, study_name: str, tmp_path: Path, sampler: str
) -> None:
    run(storage, study_file(study_name, trials=14, sampler=sampler), tmp_path, Training())
    assert status(storage, study_name).trials[TrialState.COMPLETE] >= 1


def test_a_paused_trial_is_shown_as_such_and_can_be_stopped(
    storage: Storage, study_name: str, tmp_path: Path
) -> None:
    file = study_file(study_name)
    after = StopAfter(3)
    run(storage, file, tmp_path, Training(), stop=after.stop, observers=[after])
    (summary,) = (each for each in list_studies(storage) if each.study == study_name)
    assert summary.trials[TrialState.PAUSED] >= 2
    paused = next(each for each in show_trials(storage, study_name) if each.state is AttemptState.PAUSED)
    assert stop_trial(storage, study_name, paused.trial) == "stopped"
    again = next(each for each in show_trials(storage, study_name) if each.attempt == paused.attempt)
    assert again.state is AttemptState.FAILED


def test_when_the_hours_are_over_what_waits_is_given_up(
    storage: Storage, study_name: str, tmp_path: Path
) -> None:
    file = study_file(study_name, more=", hours: 1")
    after = StopAfter(3)
    run(storage, file, tmp_path, Training(), stop=after.stop, observers=[after])
    search = join_search(storage, file)
    with storage.transaction() as connection:
        connection.execute(
            update(attempts)
            .where(attempts.c.study_id == search.study_id)
            .values(claimed_at=attempts.c.claimed_at - timedelta(hours=2))
        )
        connection.execute(
            update(studies)
            .where(studies.c.study_id == search.study_id)
            .values(started_at=studies.c.started_at - timedelta(hours=2))
        )
    run(storage, file, tmp_path, Training())
    now = status(storage, study_name)
    assert now.trials[TrialState.PAUSED] == 0
    assert now.trials[TrialState.PRUNED] >= 2
