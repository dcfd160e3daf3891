"""The trials of a study run on one data set: that of the worker who was first."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import delete, text

from hms_tune.config.study_file import StudyFile
from hms_tune.data.identity import DataIdentity
from hms_tune.data.store.store import Store
from hms_tune.database.connect import Storage, open_storage
from hms_tune.database.queries.data_sets import data_of_study, torch_versions
from hms_tune.database.tables import data_sets
from hms_tune.errors import DataChangedError
from hms_tune.search.data_check import check_data
from hms_tune.studies.control import delete_study
from hms_tune.studies.lookup import find_study
from hms_tune.worker.checkpoint_store.archive import load_study, save_study
from hms_tune.worker.checkpoint_store.open import open_store
from hms_tune.worker.open_study import open_search
from hms_tune.worker.presence import Presence, announce, warn_of_other_torch
from studies import ONE_TRIAL

DATA = DataIdentity("a" * 64, "f" * 64, eegs=72, rows=1000, patients=36)
OTHER = DataIdentity("b" * 64, "e" * 64, eegs=60, rows=1000, patients=30)


def a_study(name: str, trials: int = 1) -> StudyFile:
    return StudyFile.parse(ONE_TRIAL.format(name=name).replace("trials: 1", f"trials: {trials}"), "test")


def everything(storage: Storage, name: str) -> list[object]:
    """All that the database has of a study."""
    with storage.transaction() as connection:
        rows = [
            connection.execute(
                text(f"SELECT to_jsonb(t) FROM {table} t WHERE {column} = :value"), given
            ).all()
            for table, column, given in (
                ("hms_tune.studies", "name", {"value": name}),
                ("hms_tune.data_sets", "study_id", {"value": find_study(storage, name)}),
                ("hms_tune.trials", "study_id", {"value": find_study(storage, name)}),
                ("study_user_attributes", "study_id", {"value": find_study(storage, name)}),
            )
        ]
    return [sorted(map(str, each)) for each in rows]


def test_a_worker_with_other_data_is_refused_and_nothing_is_written(
    storage: Storage, study_name: str
) -> None:
    open_search(storage, a_study(study_name), data=DATA)
    before = everything(storage, study_name)
    with pytest.raises(DataChangedError) as refused:
        open_search(storage, a_study(study_name, trials=7), data=OTHER)
    assert str(refused.value) == (
        f"study {study_name}: this worker's data are not the study's: 60 EEGs instead of 72, "
        "30 patients instead of 36, data digest bbbbbbbbbbbb instead of aaaaaaaaaaaa. "
        "Give --data the folder that the study's trials ran on, or search this one in a new study, "
        f"which learns from this one by search: {{parent: {study_name}}}"
    )
    assert everything(storage, study_name) == before
    open_search(storage, a_study(study_name, trials=7), data=DATA)


def test_equal_data_that_fall_into_other_folds_are_refused(storage: Storage, study_name: str) -> None:
    open_search(storage, a_study(study_name), data=DATA)
    with pytest.raises(DataChangedError, match="are not the study's: folds eeeeeeeeeeee instead of ffff"):
        open_search(storage, a_study(study_name), data=replace(DATA, folds="e" * 64))


@pytest.mark.parametrize("made_before", [False, True], ids=["new", "of an earlier version"])
def test_of_two_first_workers_with_different_data_one_is_refused(
    storage: Storage, database_url: str, study_name: str, made_before: bool
) -> None:
    if made_before:
        open_search(storage, a_study(study_name))
        with storage.transaction() as connection:
            connection.execute(
                delete(data_sets).where(data_sets.c.study_id == find_study(storage, study_name))
            )
    together = threading.Barrier(2)

    def join(data: DataIdentity) -> DataIdentity | None:
        own = open_storage(database_url)
        try:
            together.wait()
            open_search(own, a_study(study_name), data=data)
        except DataChangedError:
            return None
        finally:
            own.close()
        return data

    with ThreadPoolExecutor(2) as threads:
        joined = list(threads.map(join, (DATA, OTHER)))
    assert joined.count(None) == 1
    with storage.transaction() as connection:
        assert data_of_study(connection, find_study(storage, study_name)) in joined


def test_a_study_of_which_the_digest_alone_is_known_keeps_to_it_and_learns_the_rest(
    storage: Storage, study_name: str
) -> None:
    open_search(storage, a_study(study_name), data=DataIdentity(DATA.digest))
    with pytest.raises(DataChangedError):
        open_search(storage, a_study(study_name), data=OTHER)
    open_search(storage, a_study(study_name), data=DATA)
    with storage.transaction() as connection:
        assert data_of_study(connection, find_study(storage, study_name)) == DATA


def test_the_folds_of_a_data_set_depend_on_the_split_that_a_study_draws(
    store: Store, study_name: str
) -> None:
    found = check_data(a_study(study_name), store)
    assert found == check_data(a_study("another"), store)
    assert (found.digest, found.patients, found.rows) == (store.manifest.digest, 8, len(store.train))
    more_folds = ONE_TRIAL.format(name=study_name).replace("folds: 2", "folds: 3")
    other = check_data(StudyFile.parse(more_folds, "test"), store)
    assert (other.digest, other.folds == found.folds) == (found.digest, False)


def test_a_saved_study_keeps_to_its_data_where_it_is_loaded(
    storage: Storage, study_name: str, tmp_path: Path
) -> None:
    open_search(storage, a_study(study_name), data=DATA)
    artifacts = open_store(tmp_path / "artifacts")
    save_study(storage, artifacts, study_name, tmp_path / "saved")
    delete_study(storage, study_name)
    load_study(storage, artifacts, tmp_path / "saved")
    with pytest.raises(DataChangedError):
        open_search(storage, a_study(study_name), data=OTHER)


def test_a_worker_of_another_major_version_of_torch_says_so_and_is_recorded(
    storage: Storage, study_name: str, caplog: pytest.LogCaptureFixture
) -> None:
    study_id = open_search(storage, a_study(study_name)).study_id

    def joined(version: str) -> list[str]:
        presence = Presence(f"{study_name}-{version}", study_id, "1.0", ("cpu",), version)
        caplog.clear()
        warn_of_other_torch(storage, presence)
        with announce(storage, presence):
            return caplog.messages[:]

    assert joined("2.4.0") == []
    assert joined("2.9.1") == []
    assert joined("3.0.0") == [
        "This worker runs PyTorch 3.0.0, others of the study ran 2.4.0, 2.9.1: scores may differ by more than"
        " chance"
    ]
    with storage.statements() as connection:
        assert torch_versions(connection, study_id) == ["2.4.0", "2.9.1", "3.0.0"]
