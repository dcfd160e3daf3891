"""A study that goes on from what another one learnt, on a real database."""

from __future__ import annotations

from pathlib import Path

import pytest
from promoted import Training, a_study
from slots import a_slot
from sqlalchemy import select

from hms_tune.cli.study_check import check
from hms_tune.config.study_file import StudyFile
from hms_tune.database.connect import Storage
from hms_tune.database.tables import trials
from hms_tune.errors import ConfigError
from hms_tune.studies.status import status
from hms_tune.trial_state import TrialState
from hms_tune.worker.open_study import join_search


def test_a_study_starts_with_its_parents_winner_and_ranks_nothing_of_it(
    storage: Storage,
    database_url: str,
    study_name: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    old = a_study(study_name, trials=6)
    training = Training()
    a_slot(storage, join_search(storage, old), training.train, tmp_path / "store").run()
    winner = status(storage, study_name).best
    assert winner is not None
    text = old.text.replace(f"study: {study_name}", f"study: {study_name}-2").replace("folds: 5", "folds: 3")
    path = tmp_path / "child.yaml"
    path.write_text(text.replace("sampler: random,", f"parent: {study_name},"))

    check(str(path), storage=database_url)
    told = " ".join(capsys.readouterr().out.split())
    assert f"parent {study_name}: 6 of its 6 trials lie in this space; its winner among them is tried" in told

    search = join_search(storage, StudyFile.parse(path.read_text(), str(path)))
    with storage.statements() as connection:
        waiting = connection.execute(select(trials).where(trials.c.study_id == search.study_id)).one()
    assert (waiting.state, waiting.given) == (TrialState.WAITING, winner.params)
    shown = status(storage, f"{study_name}-2")
    assert (shown.best, shown.leaders) == (None, ())


def test_a_worker_refuses_a_parent_of_which_nothing_carries_over(
    storage: Storage, study_name: str, tmp_path: Path
) -> None:
    old = a_study(study_name, trials=2)
    a_slot(storage, join_search(storage, old), Training().train, tmp_path / "store").run()
    text = old.text.replace(f"study: {study_name}", f"study: {study_name}-2")
    text = text.replace("low: 1.0e-4, high: 1.0e-2", "low: 1.0e-1, high: 1.0")
    child = StudyFile.parse(text.replace("sampler: random,", f"parent: {study_name},"), "child.yaml")
    with pytest.raises(ConfigError, match="none lies in this space"):
        join_search(storage, child)
