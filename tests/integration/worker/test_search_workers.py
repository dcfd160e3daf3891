"""Several processes draw from one study in PostgreSQL at the same time."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter

import optuna
import pytest

from hms_tune.config.study_file import StudyFile
from hms_tune.database.connect import Storage
from hms_tune.search.study import stored_study_file
from hms_tune.search.suggest import grid

WORKER = """
import sys
import optuna
from hms_tune.config.study_file import StudyFile
from hms_tune.search.suggest import suggest
from hms_tune.search.study import create_or_load
from hms_tune.database.connect import open_storage

url, seed, count, *texts = sys.argv[1:]
optuna.logging.set_verbosity(optuna.logging.ERROR)
study_files = [StudyFile.parse(text, "race.yaml") for text in texts]
storage = open_storage(url)
for study_file in study_files:
    print("ready", flush=True)
    sys.stdin.readline()
    study = create_or_load(storage.optuna, study_file, worker_seed=int(seed))
    for _ in range(int(count)):
        trial = study.ask()
        suggest(study_file.space, trial)
        study.tell(trial, 1.0)
storage.close()
"""
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


@pytest.fixture(scope="module")
def races(storage: Storage, database_url: str) -> Storage:
    """Where three workers, all with the same seed, have made and filled one study after the other."""
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, database_url, "0", str(EACH), GRID, QMC],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(WORKERS)
    ]
    for _ in (GRID, QMC):
        for worker in workers:
            assert worker.stdout is not None
            assert worker.stdout.readline() == "ready\n"
        for worker in workers:
            assert worker.stdin is not None
            worker.stdin.write("go\n")
            worker.stdin.flush()
    assert [worker.wait(timeout=120) for worker in workers] == [0] * WORKERS
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
