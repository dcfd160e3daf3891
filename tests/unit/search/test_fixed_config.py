"""One configuration of a study file."""

from __future__ import annotations

import pytest

from hms_tune.config.study_file import StudyFile
from hms_tune.errors import ConfigError
from hms_tune.search.suggest import changed, fixed_config

FILE = """
study: one
model: {backbone: {choices: [resnet18, resnet34]}, pretrained: false}
training:
  epochs: 4
  learning_rate: {low: 1.0e-4, high: 1.0e-2, log: true}
  scheduler: {choices: [{name: cosine, warmup: {low: 0.0, high: 0.1}}, constant]}
budget: {trials: 1}
"""
SPACE = StudyFile.parse(FILE, "one.yaml").space
GIVEN = {"model.backbone": "resnet34", "training.learning_rate": "3e-3", "training.scheduler": "constant"}


def test_every_range_takes_the_value_that_is_given() -> None:
    config = fixed_config(SPACE, GIVEN)
    assert config.model.backbone == "resnet34"
    assert config.training.learning_rate == 3e-3
    assert config.training.scheduler.name == "constant"
    assert config.training.epochs == 4


def test_a_value_may_lie_outside_its_range_and_replace_what_the_file_fixes() -> None:
    more = {"training.learning_rate": "0.5", "training.epochs": "9", "training.early_stopping.patience": "2"}
    config = fixed_config(SPACE, GIVEN | more)
    assert (config.training.learning_rate, config.training.epochs) == (0.5, 9)
    assert config.training.early_stopping is not None
    assert config.training.early_stopping.patience == 2


def test_ranges_without_a_value_are_named() -> None:
    with pytest.raises(ConfigError, match=r"^model.backbone, .* and 1 more"):
        fixed_config(SPACE, {})
    with pytest.raises(ConfigError, match=r"^training.learning_rate: one training needs values"):
        fixed_config(SPACE, {key: GIVEN[key] for key in ("model.backbone", "training.scheduler")})


def test_an_unknown_key_and_a_value_that_does_not_fit_are_named() -> None:
    with pytest.raises(ConfigError, match=r'"training.lr" is no key .* nearest: training.learning_rate'):
        fixed_config(SPACE, {"training.lr": "1e-3"})
    with pytest.raises(ConfigError, match=r"training.epochs: Input should be a valid integer"):
        fixed_config(SPACE, GIVEN | {"training.epochs": "many"})
    with pytest.raises(ConfigError, match="layer_decay and backbone_lr_ratio exclude each other"):
        fixed_config(SPACE, GIVEN | {"training.layer_decay": "0.5", "training.backbone_lr_ratio": "0.5"})


def test_a_trials_values_are_changed_at_the_keys_that_are_given() -> None:
    config = fixed_config(SPACE, GIVEN)
    longer = changed(config.model_dump(mode="json"), {"training.epochs": "20"})
    assert longer.differences(config) == {"training.epochs": (20, 4)}


BRANCHES = StudyFile.parse(
    """
study: branches
input:
  eeg: mel
  more: {near: {choices: [null, {name: cwt, window_seconds: 10, cycles: {low: 4, high: 8}}]}}
training: {optimizer: {choices: [adamw, {name: lamb, beta2: {low: 0.98, high: 0.999}}]}}
budget: {trials: 1}
""",
    "branches.yaml",
).space
BRANCH = {"input.more.near": "cwt", "input.more.near.cwt.cycles": "5", "training.optimizer": "adamw"}


def test_a_label_takes_all_that_its_branch_says() -> None:
    near = fixed_config(BRANCHES, BRANCH).input.eeg_views["near"]
    assert near.model_dump(include={"window_seconds", "cycles"}) == {"window_seconds": 10.0, "cycles": 5.0}
    with pytest.raises(ConfigError, match=r"^input.more.near.cwt.cycles: one training needs values"):
        fixed_config(BRANCHES, {"input.more.near": "cwt", "training.optimizer": "adamw"})


@pytest.mark.parametrize("key", ["training.optimizer.lamb.beta2", "training.optimizer.beta2"])
@pytest.mark.parametrize("value", ["0.99", "0.5"])  # in the range, and outside
def test_a_value_of_a_branch_has_the_name_of_its_parameter_or_its_key(key: str, value: str) -> None:
    config = fixed_config(BRANCHES, BRANCH | {"training.optimizer": "lamb", key: value})
    assert config.training.optimizer.model_dump(include={"name", "beta2"}) == {
        "name": "lamb",
        "beta2": float(value),
    }


def test_the_name_of_a_variant_keeps_with_settings_that_follow() -> None:
    given = {"input.detail": "cwt", "input.detail.window_seconds": "12"}
    config = fixed_config(BRANCHES, BRANCH | given)
    assert config.input.eeg_views["detail"].model_dump(include={"name", "window_seconds"}) == {
        "name": "cwt",
        "window_seconds": 12.0,
    }
