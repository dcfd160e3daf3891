"""One configuration of a study file."""

from __future__ import annotations

import pytest

from hms_tune.config.study_file import StudyFile
from hms_tune.config.trial import SecondStage
from hms_tune.errors import ConfigError
from hms_tune.search.suggest import fixed_config

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
    with pytest.raises(ConfigError, match=r'training.epochs: input should be a valid integer, got "many"'):
        fixed_config(SPACE, GIVEN | {"training.epochs": "many"})
    with pytest.raises(ConfigError, match="layer_decay and backbone_lr_ratio exclude each other"):
        fixed_config(SPACE, GIVEN | {"training.layer_decay": "0.5", "training.backbone_lr_ratio": "0.5"})


def test_a_trials_values_are_changed_at_the_keys_that_are_given() -> None:
    longer = fixed_config(SPACE, {"training.epochs": "20"}, PARAMS)
    assert longer.differences(fixed_config(SPACE, {}, PARAMS)) == {"training.epochs": (20, 4)}


PARAMS = {
    "model.backbone": "resnet34",
    "training.learning_rate": 3e-3,
    "training.scheduler": "cosine",
    "training.scheduler.cosine.warmup": 0.05,
}


@pytest.mark.parametrize("key", ["training.scheduler.cosine.warmup", "training.scheduler.warmup"])
@pytest.mark.parametrize("value", ["0.02", "0.5"])  # in the range, and outside
def test_a_trials_value_in_a_branch_has_the_name_of_its_parameter_or_its_key(key: str, value: str) -> None:
    config = fixed_config(SPACE, {key: value}, PARAMS)
    assert config.training.scheduler.model_dump(include={"name", "warmup"}) == {
        "name": "cosine",
        "warmup": float(value),
    }


def test_a_trial_that_goes_to_another_branch_takes_what_that_branch_says() -> None:
    space = StudyFile.parse(FILE.replace("constant]", "{name: plateau, patience: 7}]"), "one.yaml").space
    plateau = fixed_config(space, {"training.scheduler": "plateau"}, PARAMS).training.scheduler
    assert plateau.model_dump(include={"name", "patience"}) == {"name": "plateau", "patience": 7}
    warm = PARAMS | {"training.scheduler": "plateau"}
    with pytest.raises(ConfigError, match=r"^training.scheduler.cosine.warmup: one training needs values"):
        fixed_config(
            space,
            {"training.scheduler": "cosine"},
            {key: value for key, value in warm.items() if "warmup" not in key},
        )


def test_a_setting_of_another_branch_than_the_trials_is_refused_with_those_there_are() -> None:
    with pytest.raises(
        ConfigError, match=r'unknown key "patience" in training.scheduler; known: name, warmup'
    ):
        fixed_config(SPACE, {"training.scheduler.patience": "3"}, PARAMS)


@pytest.mark.parametrize("order", [1, -1])
def test_a_section_is_set_before_what_stands_in_it_however_they_are_given(order: int) -> None:
    pairs = [("training.optimizer", "lamb"), ("training.optimizer.beta2", "0.98")][::order]
    assert fixed_config(SPACE, dict(pairs), PARAMS).training.optimizer.model_dump(
        include={"name", "beta2"}
    ) == {"name": "lamb", "beta2": 0.98}


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("input.image", "[64, 128]", (64, 128)),
        ("training.grad_clip", "null", None),
        ("training.grad_clip", "", None),
        ("data.reshuffle", "true", True),
        ("data.folds", "3", 3),
        ("training.second_stage", "{epochs: 2, min_votes: 5}", (2, 5)),
        ("training.loss", "bce", "bce"),
    ],
)
def test_values_are_written_as_in_a_study_file(key: str, text: str, value: object) -> None:
    found = fixed_config(SPACE, {key: text}, PARAMS)
    for part in key.split("."):
        found = getattr(found, part)
    if isinstance(found, SecondStage):
        found = (found.epochs, found.min_votes)
    assert found == value


@pytest.mark.parametrize(
    ("key", "text", "told"),
    [
        ("training.optimizer", "Lion", 'training.optimizer: unknown name "Lion"; nearest: lion'),
        ("training.optimizer", "RAdam", 'training.optimizer: unknown name "RAdam"; nearest: radam'),
        ("training.loss", "BCE", "or 'bce', got \"BCE\"; nearest: bce"),
        ("training.epochs", "20 ", None),
        ("input.image", "64x128", "input.image: input should be a valid"),
        ("budget.trials", "3", '"budget.trials" is no key of one training. It belongs to a search'),
        ("data.root", "elsewhere", '"data.root" is no key of one training. Give --data ROOT'),
        ("xyzzy", "3", '"xyzzy" is no key of a study file; hms-tune study check names'),
        ("lr", "3", '"lr" is no key of a study file; nearest: training.learning_rate'),
        ("training.epoch", "3", "nearest: training.epochs"),
    ],
)
def test_a_mistake_is_told_as_one_in_a_study_file(key: str, text: str, told: str | None) -> None:
    if told is None:
        assert fixed_config(SPACE, {key: text}, PARAMS).training.epochs == 20
        return
    with pytest.raises(ConfigError) as raised:
        fixed_config(SPACE, {key: text}, PARAMS)
    assert told in str(raised.value)


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
