"""A name that is not known is answered with the one that was meant, also where people have another word."""

from __future__ import annotations

import pytest

from hms_tune.config.study_file import StudyFile, _every_key
from hms_tune.config.yaml_lines import _SYNONYMS, nearest
from hms_tune.errors import ConfigError

SEARCHED = [
    *("training.scheduler", "training.learning_rate", "training.batch_size", "training.optimizer"),
    *(
        "training.weight_decay",
        "model.backbone",
        "model.dropout",
        "input.image",
        "training.scheduler.cosine.warmup",
    ),
]


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("training.lr", "training.learning_rate"),
        ("lr", "training.learning_rate"),
        ("LR", "training.learning_rate"),
        ("wd", "training.weight_decay"),
        ("training.weight-decay", "training.weight_decay"),
        ("bs", "training.batch_size"),
        ("opt", "training.optimizer"),
        ("model.arch", "model.backbone"),
        ("img_size", "input.image"),
        ("size", "input.image"),
        ("droput", "model.dropout"),
        ("model.learning_rat", "training.learning_rate"),
        ("warmup_ratio", "training.scheduler.cosine.warmup"),
        ("sched", "training.scheduler"),
    ],
)
def test_a_parameter_is_found_by_its_last_part_and_by_other_words_for_it(typed: str, meant: str) -> None:
    assert nearest(typed, SEARCHED) == f"nearest: {meant}"


def test_what_is_near_to_nothing_is_answered_with_all() -> None:
    assert nearest("montage", ["a", "b"]) == "known: a, b"


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("lr: 1e-3", 'unknown key "lr" in the study file; nearest: training.learning_rate'),
        ("learning_rate: 1e-3", "nearest: training.learning_rate"),
        ("model: {bs: 16}", 'unknown key "bs" in model; nearest: training.batch_size'),
        ("training: {lr: 1e-3}", 'unknown key "lr" in training; nearest: learning_rate'),
        ("training: {opt: adamw}", "nearest: optimizer"),
        ("input: {size: [128, 256]}", "nearest: image"),
        ("model: {arch: resnet18}", "nearest: backbone"),
        ("n_trials: 10", "nearest: budget.trials"),
        ("data: {n_splits: 5}", "nearest: folds"),
        ("training: {sampler: random}", "nearest: search.sampler"),
    ],
)
def test_a_key_that_stands_in_the_wrong_place_is_led_to_the_right_one(text: str, answer: str) -> None:
    with pytest.raises(ConfigError) as refused:
        StudyFile.parse(f"study: mine\n{text}\n", "mine.yaml")
    assert answer in str(refused.value)
    assert "mine.yaml:2" in str(refused.value)


def test_every_synonym_leads_to_a_key_that_exists_and_is_none_itself() -> None:
    last_parts = {key.rpartition(".")[2] for key in _every_key()}
    assert set(_SYNONYMS) <= last_parts
    assert {word for words in _SYNONYMS.values() for word in words} & last_parts == set()
