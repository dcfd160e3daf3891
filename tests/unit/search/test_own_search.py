"""Samplers and pruners that users write."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState

import hms_tune
from hms_tune.config.study_file import StudyFile
from hms_tune.errors import ConfigError
from hms_tune.search.pruners import make_pruner
from hms_tune.search.samplers import make_sampler
from hms_tune.search.study_check import check_study
from hms_tune.search.suggest import config_of, suggest
from hms_tune.tracking.console import ConsoleObserver
from hms_tune.worker.options import WorkerOptions
from hms_tune.worker.worker import Worker

TEXT = """\
study: own
data: {folds: 2}
model: {backbone: test_resnet, pretrained: false}
training:
  epochs: 3
  learning_rate: {low: 1e-4, high: 1e-1, log: true}
  scheduler: {choices: [cosine, constant]}
search: {%s}
"""
BAD = """\
import hms_tune, optuna
{marks}
def one(given): return {made}
"""


def a_file(search: str) -> StudyFile:
    return StudyFile.parse(TEXT % search, "own.yaml")


@pytest.fixture
def example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StudyFile:
    """A study with the sampler and the pruner of the document."""
    document = Path(__file__).parents[3] / "docs" / "search.md"
    (code,) = re.findall(r"```python\n(.*?)```", document.read_text(encoding="utf-8"), re.DOTALL)
    (tmp_path / "example_of_search.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    return a_file("sampler: example_of_search:evolution, pruner: example_of_search:behind")


def kl(rate: float, fold: int) -> float:
    return abs(np.log10(rate) + 2.0) + 0.5 + 0.01 * fold


def test_the_documents_sampler_and_pruner_search(example: StudyFile) -> None:
    check_study(example)
    assert example.search.scheduler.name == "none"
    sampler, pruner = make_sampler(example, worker_seed=1), make_pruner(example)
    assert isinstance(sampler, optuna.samplers.NSGAIISampler)
    study = optuna.create_study(sampler=sampler, pruner=pruner)
    for _ in range(60):
        trial = study.ask()
        rate = suggest(example.space, trial).training.learning_rate
        for step in range(1, 7):
            trial.report(kl(rate, (step - 1) // 3), step)
            if trial.should_prune():
                study.tell(trial, state=TrialState.PRUNED)
                break
        else:
            study.tell(trial, kl(rate, 1))
    pruned = [trial for trial in study.trials if trial.state == TrialState.PRUNED]
    assert 10 < len(pruned) < 59
    assert all(trial.last_step in (3, 6) for trial in pruned)
    assert study.best_value < 0.6
    assert config_of(example.space, study.best_trial.params).training.epochs == 3


def test_slots_are_given_seeds_of_their_own_and_the_search_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[hms_tune.SearchInput] = []
    monkeypatch.setattr(hms_tune, "asked", given, raising=False)
    (tmp_path / "asking.py").write_text(
        "import hms_tune, optuna\n@hms_tune.sampler\ndef one(given):\n"
        "    hms_tune.asked.append(given)\n    return optuna.samplers.RandomSampler(given.seed)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    file = a_file("sampler: asking:one")
    for worker_seed in (0, 1, 0):
        make_sampler(file, worker_seed=worker_seed)
    assert given[0].seed == given[2].seed != given[1].seed
    assert (given[0].epochs, given[0].folds) == (3, 2)
    assert set(given[0].distributions) == {"training.learning_rate", "training.scheduler"}


@pytest.mark.parametrize(
    ("kind", "marks", "made", "message"),
    [
        ("sampler", "", "None", "bad_sampler:one is not marked as a sampler"),
        ("pruner", "@hms_tune.sampler", "None", "bad_pruner:one is not marked as a pruner"),
        ("sampler", "@hms_tune.sampler", "optuna.pruners.NopPruner()", "made NopPruner, which is no sampler"),
        ("pruner", "@hms_tune.pruner", "None", "made NoneType, which is no pruner"),
        ("pruner", "@hms_tune.pruner", "1 / 0", r"cannot be made \(ZeroDivisionError: division by zero\)"),
        ("sampler", "@nothing.sampler", "None", "name 'nothing' is not defined"),
    ],
)
def test_what_makes_no_sampler_or_pruner_is_refused_before_the_first_trial(
    kind: str, marks: str, made: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = f"bad_{kind}_{tmp_path.name}".replace("-", "_")
    (tmp_path / f"{module}.py").write_text(BAD.format(marks=marks, made=made))
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match=message.replace(f"bad_{kind}", module)) as refused:
        check_study(a_file(f"{kind}: {module}:one"))
    assert refused.value.where == f"own.yaml: search.{kind}"
    assert refused.value.hint


def test_a_package_that_is_not_installed_is_named() -> None:
    with pytest.raises(ConfigError, match=r"sampler nowhere\.search:one cannot be imported") as refused:
        check_study(a_file("sampler: nowhere.search:one"))
    assert "Install its package" in str(refused.value.hint)


def test_a_worker_refuses_it_before_it_touches_the_database(tmp_path: Path) -> None:
    home = tmp_path / "home"
    options = WorkerOptions(a_file("pruner: nowhere.search:one"), None, home, tmp_path, tmp_path)
    with pytest.raises(ConfigError, match=r"pruner nowhere\.search:one cannot be imported"):
        Worker(options, ConsoleObserver()).run()
    assert list(home.iterdir()) == []


@pytest.mark.parametrize(
    ("search", "message"),
    [
        ("sampler: a.b:c, scheduler: promotion", "a.b:c learns from complete trials alone"),
        ("sampler: a.b:c, startup_trials: 5", "a.b:c takes no startup_trials"),
        ("pruner: a.b:c, scheduler: promotion", "scheduler promotion pauses trials in place of a pruner"),
        ("pruner: medain", 'unknown name "medain"; nearest: median'),
        ("pruner: {name: a.b:c, patience: 3}", 'unknown key "patience"'),
        ("sampler: tpee", "search.sampler"),
    ],
)
def test_what_does_not_go_together_is_refused(search: str, message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        a_file(search)
    assert message in str(refused.value)
