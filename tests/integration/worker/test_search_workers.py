"""Several processes draw from one study in PostgreSQL at the same time."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter

import optuna

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

url, text, seed, count = sys.argv[1:]
optuna.logging.set_verbosity(optuna.logging.ERROR)
study_file = StudyFile.parse(text, "race.yaml")
storage = open_storage(url)
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


def drawn_at_once(url: str, text: str) -> None:
    """Let three workers, all with the same seed, make and fill the study."""
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, url, text, "0", str(EACH)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(WORKERS)
    ]
    for worker in workers:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "ready\n"
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("go\n")
        worker.stdin.flush()
    assert [worker.wait(timeout=120) for worker in workers] == [0] * WORKERS


def params_of(storage: Storage, name: str) -> Counter[str]:
    study = optuna.load_study(study_name=name, storage=storage.optuna)
    trials = study.get_trials()
    assert len(trials) == WORKERS * EACH
    return Counter(repr(sorted(trial.params.items())) for trial in trials)


def test_workers_that_race_try_every_cell_of_a_grid_once(
    storage: Storage, database_url: str, study_name: str
) -> None:
    text = TEXT.replace("NAME", study_name).replace("SAMPLER", "grid")
    study_file = StudyFile.parse(text, "race.yaml")
    cells = Counter(repr(sorted(cell.items())) for cell in grid(study_file.space))
    assert len(cells) == WORKERS * EACH
    drawn_at_once(database_url, text)
    assert params_of(storage, study_name) == cells
    study = optuna.load_study(study_name=study_name, storage=storage.optuna)
    assert stored_study_file(study) == study_file
    assert study.metric_names == ["KL"]


def test_workers_that_race_never_draw_the_same_point(
    storage: Storage, database_url: str, study_name: str
) -> None:
    text = TEXT.replace("NAME", study_name).replace("SAMPLER", "qmc").replace(", step: 0.2", "")
    drawn_at_once(database_url, text)
    assert len(params_of(storage, study_name)) == WORKERS * EACH
