"""Between study files and Optuna's parameters."""

from __future__ import annotations

from typing import Any

import optuna
import pytest

from hms_tune.config.study_file import StudyFile, load_study_file
from hms_tune.errors import ConfigError
from hms_tune.search.suggest import (
    config_of,
    distributions,
    grid,
    grid_size,
    params_from_config,
    suggest,
)

TEXT = """\
study: example
input: {image: {choices: [[64, 128], [128, 256]]}}
augmentation: {mixup_alpha: {choices: [0, {low: 0.1, high: 2, log: true}]}}
model:
  frozen_layers: {low: 0, high: 8, step: 2}
  hidden: {choices: [0, 64]}
  pretrained: {choices: [true, false]}
training:
  learning_rate: {low: 5e-5, high: 3e-3, log: true}
  scheduler: {choices: [cosine, {name: plateau, patience: {low: 1, high: 4}}]}
  optimizer: {name: sgd, momentum: {low: 0.5, high: 0.9, step: 0.2}}
"""


@pytest.fixture
def study_file() -> StudyFile:
    return StudyFile.parse(TEXT, "example.yaml")


def fixed(params: dict[str, Any]) -> optuna.trial.FixedTrial:
    return optuna.trial.FixedTrial(params)


def test_a_suggestion_is_a_trial_configuration_with_the_branch_that_was_drawn(study_file: StudyFile) -> None:
    params = {
        "input.image": "[128,256]",
        "augmentation.mixup_alpha": "range",
        "augmentation.mixup_alpha.range": 0.4,
        "model.frozen_layers": 4,
        "model.hidden": 64,
        "model.pretrained": False,
        "training.learning_rate": 1e-3,
        "training.scheduler": "plateau",
        "training.scheduler.plateau.patience": 3,
        "training.optimizer.momentum": 0.7,
    }
    config = suggest(study_file.space, fixed(params))
    assert config.input.image == (128, 256)
    assert config.augmentation.mixup_alpha == 0.4
    assert config.training.scheduler.model_dump() == {
        "name": "plateau",
        "patience": 3,
        "factor": 0.5,
        "warmup": 0.0,
    }
    assert config.training.optimizer.model_dump() == {"name": "sgd", "momentum": 0.7, "nesterov": True}
    assert config_of(study_file.space, params) == config


WAYS_TO_FREEZE = {"frozen_share", "frozen_layers", "finetuned_layers"}


def test_frozen_and_finetuned_layers_are_branches_of_which_a_trial_has_one() -> None:
    study_file = load_study_file("studies/gallery/freezing.yaml")
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    drawn = set()
    for _ in range(30):
        trial = study.ask()
        model = suggest(study_file.space, trial).model
        held = {way for way in WAYS_TO_FREEZE if getattr(model, way) is not None}
        assert {trial.params["model"]} == held
        assert trial.params.keys() == {"model", f"model.{min(held)}.{min(held)}", "training.learning_rate"}
        drawn |= held
    assert drawn == WAYS_TO_FREEZE


def test_a_branch_that_freezes_in_two_ways_is_refused() -> None:
    branches = (
        "[{frozen_share: 0.5}, {frozen_layers: {low: 0, high: 5}, finetuned_layers: {low: 1, high: 2}}]"
    )
    with pytest.raises(ConfigError, match="frozen_layers and finetuned_layers exclude each other; keep one"):
        StudyFile.parse(f"study: twice\nmodel: {{choices: {branches}}}", "twice.yaml")


def test_a_parameter_is_asked_for_only_where_its_branch_was_drawn(study_file: StudyFile) -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(30):
        trial = study.ask()
        suggest(study_file.space, trial)
        assert ("training.scheduler.plateau.patience" in trial.params) == (
            trial.params["training.scheduler"] == "plateau"
        )
        assert trial.distributions.items() <= distributions(study_file.space).items()
    drawn = {name for trial in study.trials for name in trial.params}
    assert drawn == distributions(study_file.space).keys()


def test_parameters_of_another_space_are_refused(study_file: StudyFile) -> None:
    with pytest.raises(ConfigError, match="drawn from another search space"):
        config_of(study_file.space, {"training.learning_rate": 0.1})


def test_a_grid_refuses_a_continuous_range(study_file: StudyFile) -> None:
    with pytest.raises(ConfigError, match=r"augmentation\.mixup_alpha\.range is a continuous range"):
        grid(study_file.space)


def test_a_grid_counts_a_branch_only_with_its_own_values() -> None:
    text = TEXT.replace(", {low: 0.1, high: 2, log: true}", ", 1").replace(
        "{low: 5e-5, high: 3e-3, log: true}", "0.001"
    )
    space = StudyFile.parse(text, "x").space
    cells = grid(space)
    assert len(cells) == grid_size(space) == 2 * 2 * 5 * 2 * 2 * (1 + 4) * 3
    configs = {config_of(space, cell).hash for cell in cells}
    assert len(configs) == len(cells)
    assert {cell["training.optimizer.momentum"] for cell in cells} == {0.5, 0.7, 0.9}


def test_a_huge_grid_is_refused_before_it_is_made() -> None:
    text = "study: x\ntraining: {batch_size: {low: 1, high: 4096}, test_batch_size: {low: 1, high: 8192}}\n"
    with pytest.raises(ConfigError, match="33,554,432 cells"):
        grid(StudyFile.parse(text, "x").space)


def test_typed_parameters_are_read_as_in_a_study_file(study_file: StudyFile) -> None:
    assert params_from_config(
        study_file.space,
        {
            "training.learning_rate": "1e-3",
            "input.image": "[64, 128]",
            "model.pretrained": "false",
            "model.hidden": "64",
            "training.scheduler.plateau.patience": "2",
        },
    ) == {
        "input.image": "[64,128]",
        "model.hidden": 64,
        "model.pretrained": False,
        "training.learning_rate": 0.001,
        "training.scheduler": "plateau",
        "training.scheduler.plateau.patience": 2,
    }


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"training.learning_rat": "1e-3"}, "nearest: training.learning_rate"),
        ({"training.epochs": "3"}, '"training.epochs" is not searched'),
        ({"training.learning_rate": "1"}, "cannot be 1. It takes 5e-05 to 0.003, log"),
        ({"training.learning_rate": "fast"}, "training.learning_rate cannot be fast"),
        ({"training.learning_rate": ""}, "training.learning_rate cannot be"),
        ({"model.frozen_layers": "3"}, "model.frozen_layers cannot be 3"),
        ({"model.frozen_layers": "2.0"}, "model.frozen_layers cannot be 2.0"),
        ({"training.optimizer.momentum": "0.6"}, "training.optimizer.momentum cannot be 0.6"),
        ({"model.pretrained": "1"}, "model.pretrained cannot be 1"),
        (
            {"training.scheduler": "cosine", "training.scheduler.plateau.patience": "2"},
            "exists only where training.scheduler is plateau, not cosine",
        ),
    ],
)
def test_typed_parameters_outside_the_space_are_refused(
    study_file: StudyFile, values: dict[str, str], message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        params_from_config(study_file.space, values)
    assert message in str(caught.value)
