"""A sampler and a pruner of the user's own, in workers that share a study."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_study import STUDY
from slots import StopAfter, a_slot
from stories import EPOCHS, FOLDS, a_fold_end, a_fold_start, an_ending, an_epoch

from hms_tune.config.study_file import StudyFile
from hms_tune.config.trial import TrialConfig
from hms_tune.database.connect import Storage
from hms_tune.errors import TrainingError
from hms_tune.studies.status import status
from hms_tune.training.events import Event
from hms_tune.worker.open_study import join_search

BUILT_IN = "sampler: random, seed: 4, pruner: {name: median, startup_trials: 2, warmup_epochs: 1}"
FAILING = """
import hms_tune, optuna

class Failing(optuna.samplers.RandomSampler):
    def infer_relative_search_space(self, study, trial):
        raise ZeroDivisionError("of the sampler")

@hms_tune.sampler
def failing(given):
    return Failing(given.seed)
"""


def a_file(name: str, trials: int, search: str) -> StudyFile:
    assert BUILT_IN in STUDY.format(name=name, trials=trials)
    return StudyFile.parse(STUDY.format(name=name, trials=trials).replace(BUILT_IN, search), "own.yaml")


def train(config: TrialConfig, directory: Path) -> Iterator[Event]:
    """The smaller the learning rate, the better."""
    kl = 1.0 + config.training.learning_rate
    for fold in range(FOLDS):
        yield a_fold_start(fold)
        for epoch in range(EPOCHS):
            yield an_epoch(fold, epoch, kl=kl)
        yield a_fold_end(fold, kl=kl)
    yield an_ending(kl)


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    document = Path(__file__).parents[3] / "docs" / "search.md"
    (code,) = re.findall(r"```python\n(.*?)```", document.read_text(encoding="utf-8"), re.DOTALL)
    name = f"own_{tmp_path.name}".replace("-", "_")
    (tmp_path / f"{name}.py").write_text(code + FAILING)
    monkeypatch.syspath_prepend(tmp_path)
    return name


def test_workers_search_with_it_and_one_that_starts_again_goes_on(
    storage: Storage, study_name: str, module: str, tmp_path: Path
) -> None:
    file = a_file(study_name, 30, f"sampler: {module}:evolution, pruner: {module}:behind")
    leaving = StopAfter(8)
    first = a_slot(
        *(storage, join_search(storage, file), train, tmp_path / "store"),
        observers=[leaving],
        stop=leaving.stop,
    )
    assert first.run() == 8
    search = join_search(storage, file)
    assert type(search.study.sampler).__name__ == "NSGAIISampler"
    assert a_slot(storage, search, train, tmp_path / "store").run() == 22
    ended = status(storage, study_name).trials
    assert ended["complete"] + ended["pruned"] == 30
    assert ended["pruned"] >= 1
    drawn = {trial.params["training.learning_rate"] for trial in search.study.trials}
    assert len(drawn) > 20  # children may equal a parent; a worker with new seeds repeats nobody


def test_a_sampler_that_fails_at_a_draw_ends_the_worker_after_three_trials(
    storage: Storage, study_name: str, module: str, tmp_path: Path
) -> None:
    file = a_file(study_name, 30, f"sampler: {module}:failing")
    with pytest.raises(TrainingError, match="3 trials in a row failed; the last: ZeroDivisionError"):
        a_slot(storage, join_search(storage, file), train, tmp_path / "store").run()
    assert status(storage, study_name).trials["failed"] == 3
