"""Starting and joining a study; checking it before."""

from __future__ import annotations

import json
from pathlib import Path

import optuna
import pytest
import timm
import torch
from safetensors.torch import save_file

from hms_tune.cli.study_check import check
from hms_tune.config.study_file import StudyFile, load_study_file
from hms_tune.errors import ConfigError, SpaceChangedError, StorageError, UsageError
from hms_tune.search.study import SPACE_HASH, create_or_load, stored_study_file, trial_limit
from hms_tune.search.study_check import check_study
from hms_tune.search.suggest import suggest

TEXT = """\
study: example
model:
  backbone: {choices: [test_resnet, test_efficientnet]}
  pretrained: false
  frozen_layers: {low: 0, high: 4}
training: {learning_rate: {low: 1e-4, high: 1e-2, log: true}}
search: {pruner: median}
budget: {trials: 10}
"""


def parse(text: str = TEXT) -> StudyFile:
    return StudyFile.parse(text, "example.yaml")


def test_the_first_worker_makes_the_study_and_others_join_it() -> None:
    storage = optuna.storages.InMemoryStorage()
    study = create_or_load(storage, parse(), worker_seed=0)
    assert study.metric_names == ["KL"]
    assert study.direction == optuna.study.StudyDirection.MINIMIZE
    assert study.user_attrs[SPACE_HASH] == parse().space_hash
    assert stored_study_file(study) == parse()
    study.ask()
    joined = create_or_load(storage, parse(), worker_seed=1)
    assert len(joined.trials) == 1


def test_budget_tracking_and_sampler_may_change_while_a_study_runs() -> None:
    storage = optuna.storages.InMemoryStorage()
    create_or_load(storage, parse())
    larger = parse(TEXT.replace("trials: 10", "trials: 20").replace("pruner: median", "sampler: random"))
    study = create_or_load(storage, larger)
    assert stored_study_file(study).budget.trials == 20


def test_a_changed_space_is_refused_with_what_changed_and_how_to_go_on() -> None:
    storage = optuna.storages.InMemoryStorage()
    report(create_or_load(storage, parse()))
    with pytest.raises(SpaceChangedError) as caught:
        create_or_load(storage, parse(TEXT.replace("high: 1e-2", "high: 1e-1").replace("high: 4", "high: 3")))
    message = str(caught.value)
    assert "model.frozen_layers was 0 to 4 and is 0 to 3" in message
    assert "training.learning_rate was 0.0001 to 0.01, log and is 0.0001 to 0.1, log" in message
    assert "study: example-2" in message
    study = optuna.load_study(study_name="example", storage=storage)
    assert stored_study_file(study) == parse()


def test_a_pruner_that_compares_whole_folds_cannot_replace_one_that_does_not() -> None:
    storage = optuna.storages.InMemoryStorage()
    report(create_or_load(storage, parse()))
    with pytest.raises(SpaceChangedError, match=r"search\.pruner was median and is wilcoxon"):
        create_or_load(storage, parse(TEXT.replace("median", "wilcoxon")))


def failed_trial(study: optuna.Study) -> None:
    """A trial that has drawn its values and failed before its first score."""
    trial = study.ask()
    suggest(parse().space, trial)
    study.tell(trial, state=optuna.trial.TrialState.FAIL)


def report(study: optuna.Study) -> None:
    """A trial that failed after its first score."""
    trial = study.ask()
    suggest(parse().space, trial)
    trial.report(1.0, 1)
    study.tell(trial, state=optuna.trial.TrialState.FAIL)


def test_a_study_whose_trials_failed_before_any_score_may_be_mended() -> None:
    storage = optuna.storages.InMemoryStorage()
    failed_trial(create_or_load(storage, parse()))
    mended = parse(TEXT.replace("high: 1e-2", "high: 1e-1").replace("pruner: median", "pruner: wilcoxon"))
    study = create_or_load(storage, mended)
    assert stored_study_file(study) == mended
    assert study.user_attrs[SPACE_HASH] == mended.space_hash
    suggest(mended.space, study.ask())


def test_a_trial_that_runs_keeps_the_search_as_it_is() -> None:
    storage = optuna.storages.InMemoryStorage()
    create_or_load(storage, parse()).ask()
    with pytest.raises(SpaceChangedError, match="before a trial has reported a score"):
        create_or_load(storage, parse(TEXT.replace("high: 1e-2", "high: 1e-1")))


def test_choices_of_which_optuna_has_drawn_stay() -> None:
    storage = optuna.storages.InMemoryStorage()
    failed_trial(create_or_load(storage, parse()))
    with pytest.raises(SpaceChangedError):
        create_or_load(storage, parse(TEXT.replace(", test_efficientnet]", ", test_vit]")))


def test_a_grid_of_which_a_cell_is_used_up_stays() -> None:
    storage = optuna.storages.InMemoryStorage()
    small = TEXT.replace("{low: 1e-4, high: 1e-2, log: true}", "0.001").replace(
        "pruner: median", "sampler: grid"
    )
    create_or_load(storage, parse(small))
    larger = parse(small.replace("0.001", "0.002"))
    failed_trial(create_or_load(storage, larger))
    with pytest.raises(SpaceChangedError):
        create_or_load(storage, parse(small))


def test_a_study_of_someone_else_is_left_alone() -> None:
    storage = optuna.storages.InMemoryStorage()
    other = optuna.create_study(study_name="example", storage=storage, direction="maximize")
    with pytest.raises(StorageError, match="did not make"):
        create_or_load(storage, parse())
    assert other.user_attrs == {}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("high: 4}", "high: 9}", "layer groups, not 9. Choose 0 to "),
        ("test_resnet,", "test_resnett,", "test_resnet"),
        (
            "pretrained: false",
            "pretrained: {choices: [false, nowhere.safetensors]}",
            "names no file: nowhere",
        ),
        ("pruner: median", "sampler: grid", "sampler grid: training.learning_rate is a continuous range"),
    ],
)
def test_what_would_fail_in_a_trial_is_found_before_it(old: str, new: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_study(parse(TEXT.replace(old, new)))
    assert message in str(caught.value)
    assert str(caught.value).startswith("example.yaml")
    assert caught.value.exit_code == 2


def test_weights_in_a_home_that_is_not_known_are_refused() -> None:
    with pytest.raises(
        UsageError, match=r"^example\.yaml: model\.pretrained: there is no home folder ~no-one"
    ):
        check_study(parse(TEXT.replace("pretrained: false", "pretrained: ~no-one/weights.safetensors")))


def test_a_file_of_weights_is_tried_with_each_backbone_before_a_trial(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_file(timm.create_model("test_resnet").state_dict(), path)
    loads = TEXT.replace("pretrained: false", f"pretrained: {path}")
    state = torch.get_rng_state()
    check_study(parse(loads.replace("{choices: [test_resnet, test_efficientnet]}", "test_resnet")))
    assert torch.equal(state, torch.get_rng_state())
    with pytest.raises(
        ConfigError, match="of test_efficientnet: the weights do not fit the backbone"
    ) as told:
        check_study(parse(loads))
    assert str(path) in str(told.value)


@pytest.mark.parametrize(
    ("old", "new", "note"),
    [
        ("{low: 1e-4, high: 1e-2, log: true}", "0.001", "the space has 10 configurations; 11 trials"),
        (
            "pruner: median",
            "pruner: wilcoxon}\ndata: {folds: 3",
            "the wilcoxon pruner never prunes: with 3 folds",
        ),
        ("pruner: median", "pruner: {name: median, startup_trials: 50}", "the median pruner starts after 50"),
        ("pruner: median", "sampler: cma_es", "cma_es models 2 of 3 parameters"),
    ],
)
def test_what_will_work_but_not_as_meant_is_noted(old: str, new: str, note: str) -> None:
    result = check_study(parse(TEXT.replace(old, new).replace("trials: 10", "trials: 11")))
    assert any(line.startswith(note) for line in result.notes), result.notes


def test_a_grid_ends_the_budget() -> None:
    study_file = load_study_file("grid")
    assert check_study(study_file).cells == 24
    assert trial_limit(study_file) == 24
    assert trial_limit(parse()) == 10


@pytest.mark.parametrize("name", ["effnet", "resnet", "grid", "random", "smoke"])
def test_the_studies_that_come_along_can_start(name: str) -> None:
    result = check_study(load_study_file(name))
    assert result.parameters
    assert result.notes == ()


def test_study_check_shows_what_is_searched(capsys: pytest.CaptureFixture[str]) -> None:
    check("smoke", json=True)
    shown = json.loads(capsys.readouterr().out)
    assert shown["study"] == "smoke"
    assert shown["trials"] == 12
    names = [item["name"] for item in shown["parameters"]]
    assert "training.scheduler.plateau.patience" in names
    check("smoke")
    text = capsys.readouterr().out
    assert "training.scheduler.plateau.patience" in text
    assert "at most 12 trials of 3 folds × 5 epochs" in text


@pytest.mark.parametrize("batch_size", ["1", "{choices: [1, 8]}", "{low: 1, high: 4}"])
def test_a_batch_that_cannot_be_normalized_is_refused_before_any_trial(batch_size: str) -> None:
    small = TEXT.replace("{learning_rate", f"{{batch_size: {batch_size}, learning_rate") + (
        "input: {eeg: {name: stft, n_fft: 256}, image: [32, 32], channels: 1}\n"
    )
    with pytest.raises(ConfigError, match=r"training.batch_size.*one image of 32 x 32 leaves test_"):
        check_study(parse(small))
    check_study(parse(small.replace("[32, 32]", "[64, 64]")))
    check_study(parse(small.replace(batch_size, "2", 1)))
