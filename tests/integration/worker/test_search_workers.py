"""Several processes draw from one study in PostgreSQL at the same time."""

from __future__ import annotations

import multiprocessing
from collections import Counter
from multiprocessing.synchronize import Barrier

import optuna
import pytest

from hms_tune.config.study_file import StudyFile
from hms_tune.database.connect import Storage, open_storage
from hms_tune.search.study import create_or_load, stored_study_file
from hms_tune.search.suggest import grid, suggest

WORKERS, EACH = 3, 6
TEXT = """\
study: NAME
model: {dropout: {low: 0.0, high: 0.4, step: 0.2}}
training:
  batch_size: {choices: [16, 32]}
  scheduler: {choices: [cosine, {name: plateau, patience: {low: 1, high: 2}}]}
search: {sampler: SAMPLER}
"""


GRID = TEXT.replace("NAME", "race-grid").replace("SAMPLER", "grid")
QMC = TEXT.replace("NAME", "race-qmc").replace("SAMPLER", "qmc").replace(", step: 0.2", "")


def work(url: str, together: Barrier) -> None:
    """A worker of its own process, which has the others' seed."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    storage = open_storage(url)
    for text in (GRID, QMC):
        study_file = StudyFile.parse(text, "race.yaml")
        together.wait(120.0)
        study = create_or_load(storage.optuna, study_file, worker_seed=0)
        for _ in range(EACH):
            trial = study.ask()
            suggest(study_file.space, trial)
            study.tell(trial, 1.0)
    storage.close()


@pytest.fixture(scope="module")
def races(storage: Storage, database_url: str) -> Storage:
    """Where three workers, all with the same seed, have made and filled one study after the other."""
    spawn = multiprocessing.get_context("spawn")
    together = spawn.Barrier(WORKERS)
    workers = [spawn.Process(target=work, args=(database_url, together)) for _ in range(WORKERS)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120.0)
    assert [worker.exitcode for worker in workers] == [0] * WORKERS
    return storage


def params_of(storage: Storage, name: str) -> Counter[str]:
    study = optuna.load_study(study_name=name, storage=storage.optuna)
    trials = study.get_trials()
    assert len(trials) == WORKERS * EACH
    return Counter(repr(sorted(trial.params.items())) for trial in trials)


def test_workers_that_race_try_every_cell_of_a_grid_once(races: Storage) -> None:
    study_file = StudyFile.parse(GRID, "race.yaml")
    cells = Counter(repr(sorted(cell.items())) for cell in grid(study_file.space))
    assert len(cells) == WORKERS * EACH
    assert params_of(races, "race-grid") == cells
    study = optuna.load_study(study_name="race-grid", storage=races.optuna)
    assert stored_study_file(study) == study_file
    assert study.metric_names == ["KL"]


def test_workers_that_race_never_draw_the_same_point(races: Storage) -> None:
    assert len(params_of(races, "race-qmc")) == WORKERS * EACH
