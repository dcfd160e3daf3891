"""An older backup is restored under a slot at work: it loses its trial, and goes on with what is there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_study import STUDY, train
from roles import Role, a_role
from slots import a_slot

from hms_tune.config.study_file import StudyFile
from hms_tune.config.trial import TrialConfig
from hms_tune.database.connect import open_storage
from hms_tune.errors import RewoundError
from hms_tune.studies.status import status
from hms_tune.training.events import Event
from hms_tune.worker.open_study import join_search
from studies import show_trials

BACKUP = "restored_backup"


@pytest.fixture
def role(database_url: str) -> Iterator[Role]:
    with a_role(database_url, "restored", "secret") as made:
        yield made
        made.as_superuser(f"DROP DATABASE IF EXISTS {BACKUP} WITH (FORCE)")


def study_file(trials: int) -> StudyFile:
    return StudyFile.parse(STUDY.format(name="mine", trials=trials), "test")


@pytest.mark.slow
def test_a_slot_whose_database_was_set_back_loses_its_trial_and_a_new_start_goes_on(
    role: Role, tmp_path: Path
) -> None:
    storage = open_storage(role.url())
    assert a_slot(storage, join_search(storage, study_file(1)), train, tmp_path).run() == 1
    join_search(storage, study_file(6))
    storage.close()
    role.as_superuser(f"CREATE DATABASE {BACKUP} TEMPLATE restored OWNER restored")
    begun = 0

    def training(config: TrialConfig, folder: Path) -> Iterator[Event]:
        nonlocal begun
        begun += 1
        if begun == 3:
            role.as_superuser(
                "DROP DATABASE restored WITH (FORCE)",
                f"ALTER DATABASE {BACKUP} RENAME TO restored",
            )
        yield from train(config, folder)

    storage = open_storage(role.url())
    search = join_search(storage, study_file(6))
    with pytest.raises(RewoundError, match="a backup was restored"):
        a_slot(storage, search, training, tmp_path).run()
    storage.close()
    storage = open_storage(role.url())
    a_slot(storage, join_search(storage, study_file(6)), train, tmp_path).run()
    assert status(storage, "mine").trials.get("running", 0) == 0
    ended = [trial for trial in show_trials(storage, "mine") if trial.reason != "lease lost"]
    storage.close()
    assert len(ended) == 6
