"""Somebody deletes a trial by SQL: what is left is read, workers go on, and no number is given twice."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_study import STUDY, train
from slots import a_slot
from sqlalchemy import text

from hms_tune.config.study_file import StudyFile
from hms_tune.config.trial import TrialConfig
from hms_tune.database.connect import Storage, open_storage
from hms_tune.database.queue.end import DELETED
from hms_tune.reports.study_page import gather, report_page
from hms_tune.studies.export_best import best_trial
from hms_tune.studies.status import status
from hms_tune.studies.trial_record import study_record, trial_record
from hms_tune.training.events import Event
from hms_tune.trial_state import TrialState
from hms_tune.worker.open_study import join_search
from hms_tune.worker.stop import Stop
from studies import show_trials

CHILDREN = [
    f"trial_{name}"
    for name in (
        "params",
        "values",
        "intermediate_values",
        "user_attributes",
        "system_attributes",
        "heartbeats",
    )
]
"""Optuna's tables whose rows belong to a trial."""


def study_file(name: str, trials: int) -> StudyFile:
    return StudyFile.parse(STUDY.format(name=name, trials=trials).replace("high: 1.0,", "high: 0.1,"), "test")


def delete_trial(storage: Storage, name: str, number: int) -> None:
    """As a person would, with one statement for each table of Optuna's."""
    study_id = storage.optuna.get_study_id_from_name(name)
    trial = f"(SELECT trial_id FROM trials WHERE study_id = {study_id} AND number = {number})"
    with storage.transaction() as connection:
        for table in (*CHILDREN, "trials"):
            connection.execute(text(f"DELETE FROM {table} WHERE trial_id = {trial}"))


def numbers(storage: Storage, name: str) -> list[int]:
    study_id = storage.optuna.get_study_id_from_name(name)
    return [trial.number for trial in storage.optuna.get_all_trials(study_id)]


@pytest.mark.parametrize("number", [0, 1, 3])
def test_no_number_is_given_twice_and_every_view_shows_what_is_left(
    database_url: str, study_name: str, tmp_path: Path, number: int
) -> None:
    storage = open_storage(database_url)
    a_slot(storage, join_search(storage, study_file(study_name, 4)), train, tmp_path / "a").run()
    delete_trial(storage, study_name, number)
    storage.close()
    storage = open_storage(database_url)
    a_slot(storage, join_search(storage, study_file(study_name, 6)), train, tmp_path / "a").run()
    left = [each for each in range(6) if each != number]
    assert numbers(storage, study_name) == left
    assert [trial.trial for trial in show_trials(storage, study_name)] == left
    record = study_record(storage, study_name)
    assert [trial.trial for trial in record.trials] == left
    assert [trial_record(storage, study_name, each).trial for each in left] == left
    assert record.best is not None
    assert best_trial(storage, study_name).winner.number == record.best.trial
    assert f"Trial {record.best.trial}" in report_page(gather(storage, study_name))
    now = status(storage, study_name)
    assert now.state == "finished"
    assert now.best is not None
    assert now.best.trial == record.best.trial
    storage.close()


def test_a_trial_that_is_deleted_while_it_runs_has_failed_and_its_worker_goes_on(
    storage: Storage, study_name: str, tmp_path: Path
) -> None:
    begun = 0

    def training(config: TrialConfig, folder: Path) -> Iterator[Event]:
        nonlocal begun
        begun += 1
        for number, event in enumerate(train(config, folder)):
            if (begun, number) == (2, 3):
                delete_trial(storage, study_name, 1)
            yield event

    search = join_search(storage, study_file(study_name, 3))
    assert a_slot(storage, search, training, tmp_path).run() == 3
    assert numbers(storage, study_name) == [0, 2]
    assert status(storage, study_name).trials[TrialState.FAILED] == 1
    assert failed_reasons(storage, study_name) == [DELETED]


def test_a_trial_that_is_deleted_while_it_waits_has_failed_and_others_begin(
    storage: Storage, study_name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stop, begun = Stop(), 0

    def training(config: TrialConfig, folder: Path) -> Iterator[Event]:
        nonlocal begun
        begun += 1
        for event in train(config, folder):
            if begun == 2:
                stop.request()
            yield event

    search = join_search(storage, study_file(study_name, 3))
    assert a_slot(storage, search, training, tmp_path, stop=stop).run() == 1
    assert status(storage, study_name).trials[TrialState.WAITING] == 1
    delete_trial(storage, study_name, 1)
    assert a_slot(storage, search, train, tmp_path).run() == 1
    assert f"{study_name}: trial 1 was {DELETED}; it does not go on" in caplog.messages
    assert numbers(storage, study_name) == [0, 2]
    assert failed_reasons(storage, study_name) == [DELETED]
    assert status(storage, study_name).state == "finished"


def failed_reasons(storage: Storage, name: str) -> list[str]:
    study_id = storage.optuna.get_study_id_from_name(name)
    with storage.statements() as connection:
        asked = text("SELECT reason FROM hms_tune.trials WHERE study_id = :study AND state = 'failed'")
        return list(connection.execute(asked, {"study": study_id}).scalars())
