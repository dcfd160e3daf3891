"""Study files: what they mean, and which line is wrong when they mean nothing."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from hms_tune.config.ranges import (
    Choices,
    FloatRange,
    IntRange,
    assignments,
    combinations,
    corner_values,
    differences,
    parameters,
)
from hms_tune.config.settings import Settings
from hms_tune.config.study_file import StudyFile, available_studies, load_study_file
from hms_tune.config.trial import TrialConfig
from hms_tune.config.yaml_lines import Source, parse_yaml
from hms_tune.errors import ConfigError, UnknownStudyError

TEXT = """\
study: example
data: {root: data/hms, folds: 5, holdout: 0.1}
input: {eeg: {name: stft, n_fft: {choices: [256, 512]}}, image: {choices: [[64, 128], [128, 256]]}}
augmentation:
  mixup_alpha: {choices: [0, {low: 0.1, high: 2, log: true}]}
model:
  backbone: resnet18
  frozen_layers: {low: 0, high: 8}
training:
  learning_rate: {low: 5e-5, high: 3e-3, log: true}
  scheduler: {choices: [cosine, {name: plateau, patience: {low: 1, high: 4}}]}
  early_stopping: {choices: [null, {patience: {low: 2, high: 4}}]}
  epochs: {low: 4, high: 12}
search: {sampler: tpe, pruner: median, seed: 0}
budget: {trials: 20, hours: 24}
tracking: {wandb: {mode: off}}
"""


def parse(text: str = TEXT) -> StudyFile:
    return StudyFile.parse(text, "studies/example.yaml")


def refusal(old: str, new: str) -> str:
    assert old in TEXT
    with pytest.raises(ConfigError) as caught:
        parse(TEXT.replace(old, new, 1))
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_parameters_are_named_by_dotted_path_and_branch_label() -> None:
    found = {item.name: item for item in parameters(parse().space)}
    assert list(found) == [
        "input.eeg.n_fft",
        "input.image",
        "augmentation.mixup_alpha",
        "augmentation.mixup_alpha.range",
        "model.frozen_layers",
        "training.epochs",
        "training.learning_rate",
        "training.scheduler",
        "training.scheduler.plateau.patience",
        "training.early_stopping",
        "training.early_stopping.patience.patience",
    ]
    assert found["training.learning_rate"].node == FloatRange(5e-5, 3e-3, log=True)
    assert found["model.frozen_layers"].node == IntRange(0, 8)
    assert found["training.scheduler.plateau.patience"].condition == (("training.scheduler", "plateau"),)
    images = found["input.image"].node
    assert isinstance(images, Choices)
    assert [branch.label for branch in images.branches] == ["[64,128]", "[128,256]"]


def test_values_that_are_left_out_are_the_defaults_of_the_trial_configuration() -> None:
    explicit = TEXT.replace("backbone: resnet18", "backbone: resnet18\n  dropout: 0")
    assert parse(explicit).space_hash == parse().space_hash
    assert parse(TEXT.replace("cosine,", "{name: cosine},")).space_hash == parse().space_hash
    assert parse(TEXT.replace("high: 8", "high: 7")).space_hash != parse().space_hash


def test_bounds_of_folds_and_epochs_are_those_of_the_space() -> None:
    study_file = parse()
    assert (study_file.max_epochs, study_file.max_folds) == (12, 5)
    assert parse(TEXT.replace("folds: 5", "folds: 5, train_folds: 2")).max_folds == 2
    assert parse(TEXT.replace("folds: 5", "folds: {low: 3, high: 7}")).max_folds == 7


def test_the_data_folder_is_no_part_of_the_space() -> None:
    moved = parse(TEXT.replace("data/hms", "/elsewhere"))
    assert moved.data_root == Path("/elsewhere")
    assert moved.space_hash == parse().space_hash


def test_a_study_file_is_rebuilt_identically_from_json() -> None:
    study_file = parse()
    assert StudyFile.from_json(study_file.to_json()) == study_file
    with pytest.raises(ConfigError, match="another version"):
        StudyFile.from_json(json.dumps({"format": 99, "text": TEXT}))
    with pytest.raises(ConfigError, match="another version"):
        StudyFile.from_json("[]")


def test_words_and_numbers_are_those_of_yaml_1_2() -> None:
    study_file = parse()
    assert study_file.tracking.wandb.mode == "off"
    plain = parse_yaml("a: 1e-3\nb: off\nc: 010\nd: ~\ne: 12:30\n", Source("x")).plain()
    assert plain == {"a": 0.001, "b": "off", "c": 10, "d": None, "e": "12:30"}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "  learning_rate:",
            "  learning_rat:",
            'studies/example.yaml:10: unknown key "learning_rat" in training; nearest: learning_rate',
        ),
        ("search:", "serach:", 'example.yaml:14: unknown key "serach" in the study file; nearest: search'),
        ("seed: 0", "sead: 0", 'example.yaml:14: unknown key "sead" in search; nearest: seed'),
        ("log: true}]", "lgo: true}]", 'unknown key "lgo" in the range of augmentation.mixup_alpha.range'),
        ("name: plateau", "name: platau", 'unknown name "platau"; nearest: plateau'),
        ("{name: plateau, p", "{p", "needs name: constant | cosine | one_cycle | cyclic | plateau"),
        ("low: 0, high: 8", "low: 9, high: 8", "model.frozen_layers: low 9 exceeds high 8"),
        (
            "low: 0, high: 8",
            "low: 0.0, high: 8",
            "low of model.frozen_layers must be a whole number, got 0.0",
        ),
        (
            "low: 0, high: 8",
            "low: -1, high: 8",
            "example.yaml:8: low of model.frozen_layers: input should be",
        ),
        ("low: 0, high: 8", "low: 0, high: 8, log: true", "a logarithmic range needs low above 0, got 0"),
        ("low: 0, high: 8", "low: 0, high: 8, step: 0", "step of model.frozen_layers must be above 0, got 0"),
        ("low: 0, high: 8", "low: 0", "the range of model.frozen_layers needs high"),
        ("high: 3e-3, log: true", "high: 3e-3, log: true, step: 1e-4", "either log or step, not both"),
        (
            "high: 3e-3",
            "high: 30",
            "high of training.learning_rate: input should be less than or equal to 10",
        ),
        ("high: 3e-3", "high: .nan", "high of training.learning_rate must be a number"),
        ("high: 3e-3", "high: 1e999", "high of training.learning_rate"),
        (
            "[256, 512]",
            "[]",
            "example.yaml:3: choices of input.eeg.n_fft must be a list of at least one value",
        ),
        ("[256, 512]", "[256, 300]", "input.eeg.n_fft: input should be 128, 256, 512, 1024 or 2048, got 300"),
        ("[256, 512]", "[256, 256]", "choices of input.eeg.n_fft hold 256 twice"),
        ("{choices: [256, 512]}", "{low: 128, high: 512}", "input.eeg.n_fft is no number and takes no range"),
        ("[128, 256]]}", "[{low: 1, high: 2}, 256]]}", "a range cannot stand inside a list"),
        ("resnet18", "18", "example.yaml:7: model.backbone: input should be a valid string, got 18"),
        ("holdout: 0.1", "holdout: {low: 0.1, high: 0.2}", "data.holdout must be the same for all trials"),
        ("holdout: 0.1", "folds: 3", 'key "folds" is given twice, first on line 2'),
        ("study: example", "study: a/b", 'example.yaml:1: study name "a/b" is refused'),
        ("study: example", "study: ..", 'study name ".." is refused'),
        ("study: example\n", "", "the study file needs the key study"),
        ("trials: 20", "trials: {low: 1, high: 2}", "budget.trials takes one value, not a mapping"),
        ("pruner: median", "pruner: {name: median, patients: 2}", 'unknown key "patients" in search.pruner'),
        (
            "sampler: tpe",
            "sampler: grid, startup_trials: 3",
            "sampler grid models nothing and takes no startup",
        ),
        (
            "epochs: {low",
            "optimizer: {name: {choices: [adam]}}\n  epochs: {low",
            "name of training.optimizer must be",
        ),
        ("tracking:", "\ttracking:", "not valid YAML"),
        ("study: example", "study: !!python/object:os.system example", "is not used in study files"),
    ],
)
def test_a_mistake_is_told_in_one_line_with_its_place(old: str, new: str, message: str) -> None:
    assert message in refusal(old, new)


@pytest.mark.parametrize(
    ("line", "right"),
    [
        ("training: {optimizer: Lion}", "lion"),
        ("training: {optimizer: {choices: [adamw, RAdam]}}", "radam"),
        ("training: {optimizer: {name: AdamW, beta1: 0.9}}", "adamw"),
        ("training: {optimizer: Ada-Belief}", "adabelief"),
        ("training: {scheduler: OneCycle}", "one_cycle"),
        ("training: {scheduler: {name: Cosine}}", "cosine"),
        ("training: {loss: BCE}", "bce"),
        ("training: {loss: {choices: [kl, cross-entropy]}}", "cross_entropy"),
        ("training: {row_weight: Votes}", "votes"),
        ("model: {pooling: GeM}", "gem"),
        ("model: {trace_backbone: EEGNet}", "eegnet"),
        ("input: {eeg: STFT}", "stft"),
        ("input: {eeg: {name: Multi-Taper}}", "multitaper"),
        ("input: {more: {wide: CWT}}", "cwt"),
        ("input: {layout: side-by-side}", "side_by_side"),
        ("input: {kaggle: Kaggle}", "kaggle"),
        ("search: {sampler: TPE}", "tpe"),
        ("search: {sampler: CMAES}", "cma_es"),
        ("search: {pruner: Median}", "median"),
        ("search: {pruner: HyperBand}", "hyperband"),
        ("search: {pruner: {name: successive-halving}}", "successive_halving"),
        ("search: {scheduler: Promotion}", "promotion"),
        ("data: {fold_scheme: GroupKFold}", "group_k_fold"),
    ],
)
def test_a_name_in_another_case_or_spelling_is_answered_with_the_right_one(line: str, right: str) -> None:
    with pytest.raises(ConfigError, match=rf"nearest: {right}$"):
        StudyFile.parse(f"study: x\n{line}\n", "x.yaml")


@pytest.mark.parametrize(
    ("old", "new", "rule", "circumstance"),
    [
        (
            "n_fft: {choices: [256, 512]}",
            "low_hz: {low: 0.5, high: 15}, high_hz: {choices: [10, 20]}",
            "high_hz 10.0 must exceed low_hz 15.0",
            "input.eeg.low_hz = 15.0",
        ),
        (
            "epochs: {low",
            "optimizer: {choices: [adam, {name: sgd, momentum: {low: 0, high: 0.9}}]}\n  epochs: {low",
            "nesterov needs momentum above 0",
            "training.optimizer.sgd.momentum = 0.0",
        ),
        (
            "backbone: resnet18\n",
            "backbone: resnet18\n  finetuned_layers: {choices: [null, 2]}\n",
            "frozen_layers and finetuned_layers exclude each other",
            "model.finetuned_layers = 2",
        ),
        (
            "epochs: {low",
            "layer_decay: {choices: [null, 0.9]}\n  backbone_lr_ratio: {low: 0.1, high: 1}\n  epochs: {low",
            "layer_decay and backbone_lr_ratio exclude each other",
            "training.layer_decay = 0.9",
        ),
    ],
)
def test_rules_between_values_are_tried_at_the_ends_of_every_branch(
    old: str, new: str, rule: str, circumstance: str
) -> None:
    message = refusal(old, new)
    assert rule in message
    assert circumstance in message


def test_rules_are_tried_also_where_combinations_are_too_many_to_list() -> None:
    ranges = "\n".join(f"  {key}: {{low: 0.1, high: 0.8}}" for key in ("dropout", "drop_path"))
    # more than 40,000 combinations in one section; the forbidden value stands in one nested branch
    text = TEXT.replace(
        "epochs: {low",
        "batch_size: {choices: [8, 16, 32, 64]}\n  test_batch_size: {choices: [8, 16, 32, 64]}\n"
        "  weight_decay: {choices: [0.1, 0.2, 0.3, 0.4]}\n  loss: {choices: [kl, bce, cross_entropy]}\n"
        "  grad_clip: {choices: [1, 2, 3, 4]}\n  ema_decay: {choices: [null, 0.9, 0.99]}\n"
        "  optimizer: {choices: [adam, adamw, {name: sgd, momentum: {choices: [0.5, 0.9, 0.0]}}]}\n"
        "  epochs: {low",
    ).replace("  backbone: resnet18", "  backbone: resnet18\n" + ranges)
    with pytest.raises(ConfigError, match="nesterov needs momentum above 0"):
        parse(text)


def test_data_folds_may_vary_but_not_under_the_wilcoxon_pruner() -> None:
    text = TEXT.replace("folds: 5", "folds: {low: 3, high: 5}")
    parse(text)
    with pytest.raises(ConfigError, match=r":2: data\.folds cannot be a range with the wilcoxon pruner"):
        parse(text.replace("pruner: median", "pruner: wilcoxon"))


def test_a_range_ends_on_a_multiple_of_its_step() -> None:
    space = parse(TEXT.replace("low: 0, high: 8", "low: 0, high: 8, step: 3")).space
    found = {item.name: item.node for item in parameters(space)}
    assert found["model.frozen_layers"] == IntRange(0, 6, step=3)


def test_branches_of_one_name_are_told_apart_by_their_text() -> None:
    text = TEXT.replace("[cosine, {name: plateau", "[{name: plateau, factor: 0.1}, {name: plateau")
    labels = [
        branch.label
        for item in parameters(parse(text).space)
        if item.name == "training.scheduler" and isinstance(item.node, Choices)
        for branch in item.node.branches
    ]
    assert labels == [
        '{"factor":0.1,"name":"plateau"}',
        '{"name":"plateau","patience":{"high":4,"low":1}}',
    ]


def test_differences_name_the_changed_keys() -> None:
    changed = parse(TEXT.replace("high: 8", "high: 6").replace("resnet18", "resnet34"))
    assert differences(parse().space, changed.space) == {
        "model.backbone": ("resnet18", "resnet34"),
        "model.frozen_layers": ("0 to 8", "0 to 6"),
    }


def test_assignments_hold_only_parameters_that_exist_together() -> None:
    space = parse().space
    found = list(assignments(space.entries["training"], corner_values, "training"))
    assert len(found) == combinations(space.entries["training"], corner_values) == 2 * 2 * (1 + 2) * (1 + 2)
    assert all(
        ("training.scheduler.plateau.patience" in item) == (item["training.scheduler"] == "plateau")
        for item in found
    )


@pytest.mark.parametrize(
    ("escape", "message"),
    [
        ("\\UFFFFFFFF", "not valid YAML"),
        ("\\U00110000", "not valid YAML"),
        ("\\ud800", r"^a.yaml:1: \\ud800 stands for no letter$"),
        ("\\0", r"^a.yaml:1: \\u0000 stands for no letter$"),
    ],
)
@pytest.mark.parametrize("text", ['"{}": 1', 'data: {{root: "{}"}}'])
def test_an_escape_that_stands_for_no_letter_is_refused(escape: str, message: str, text: str) -> None:
    with pytest.raises(ConfigError, match=message):
        StudyFile.parse(text.format(escape), "a.yaml")


@pytest.mark.parametrize(
    ("text", "line"),
    [("a: [" + "1," * 40_000, 1), ("a:\n" + "- 1\n" * 40_000, 19_999), ("- {a: 1}\n" * 20_000, 6_667)],
)
def test_a_list_without_end_is_left_where_it_becomes_too_long(text: str, line: int) -> None:
    # The end of the text is no YAML: it would be met first if all were read.
    with pytest.raises(ConfigError, match=rf"^a.yaml:{line}: more than 20,000 keys and values$"):
        StudyFile.parse(text + "\n}", "a.yaml")


def test_hostile_texts_are_refused_quickly() -> None:
    bomb = "a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
        f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 9)
    )
    for text, message in (
        (bomb, "more than 20,000 values"),
        ("a: &a [*a]", "nested deeper than 40 levels"),
        ("[" * 5000, "nested deeper than 40 levels"),
        ("study: " + "x" * 300_000, "too many for a study file"),
        ("", "the file is empty"),
        ("[1, 2]", "must be a mapping"),
        ("a: 1\n---\nb: 2", "not valid YAML"),
        ("study: 1" + "0" * 5000, "too many digits"),
    ):
        with pytest.raises(ConfigError, match=message):
            parse(text)


def test_a_name_finds_a_study_here_then_in_the_environment_then_in_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    elsewhere = tmp_path / "elsewhere"
    settings = Settings(home=tmp_path, studies=elsewhere)
    for folder, trials in ((tmp_path / "studies", 1), (elsewhere, 2)):
        folder.mkdir()
        (folder / "example.yaml").write_text(TEXT.replace("trials: 20", f"trials: {trials}"))
    (tmp_path / "example.yml").write_text(TEXT.replace("trials: 20", "trials: 3"))
    assert load_study_file("example", settings).budget.trials == 3
    (tmp_path / "mine.yaml").write_text(TEXT)
    with pytest.raises(UnknownStudyError, match="Nearest: mine"):
        load_study_file("mien", settings)
    (tmp_path / "example.yml").unlink()
    assert load_study_file("example", settings).budget.trials == 1
    (tmp_path / "studies" / "example.yaml").unlink()
    assert load_study_file("example", settings).budget.trials == 2
    assert load_study_file(str(elsewhere / "example.yaml"), settings).budget.trials == 2
    assert {"effnet", "resnet", "grid", "random", "smoke"} <= available_studies(settings).keys()
    assert load_study_file("smoke", settings).study == "smoke"
    with pytest.raises(UnknownStudyError, match="Nearest: effnet") as caught:
        load_study_file("efnet", settings)
    assert caught.value.exit_code == 2
    with pytest.raises(UnknownStudyError, match="no such study file"):
        load_study_file("studies/nothing.yaml", settings)
    (elsewhere / "renamed.yaml").write_text(TEXT)
    with pytest.raises(ConfigError, match='holds the study "example", not "renamed"'):
        load_study_file("renamed", settings)


@pytest.mark.parametrize("name", ["../../etc/passwd", "a/b", "", "..", "A", "-a", "a" * 64, "a\n", "a b"])
def test_a_name_that_is_no_study_name_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is no study name"):
        load_study_file(name, Settings(home=tmp_path))


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "binary.yaml"
    path.write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(ConfigError, match="not UTF-8"):
        load_study_file(path)


def test_a_whole_number_has_64_bits_at_most_wherever_it_stands() -> None:
    huge = "9" * 400
    for place in (
        f"training: {{epochs: {{low: {huge}, high: 8}}}}",
        f"training: {{batch_size: {{low: 8, high: 64, step: {huge}}}}}",
        f"training: {{learning_rate: {huge}}}",
        f"budget: {{trials: -{huge}}}",
    ):
        with pytest.raises(ConfigError, match=r"example.yaml:2: .* has too many digits"):
            parse("study: example\n" + place)


def test_a_webhook_on_a_host_with_letters_of_its_own_language_is_stored_and_read_again() -> None:
    address = "https://hooks.bücher.example/SECRET"
    stored = parse(f"study: example\ntracking: {{notify: {{webhook: '{address}'}}}}").to_json()
    assert "SECRET" not in stored
    assert StudyFile.from_json(stored).tracking.notify.webhook == "https://hooks.bücher.example/***"


@pytest.mark.parametrize(
    "odd", ['https://a"b.example/x', r"https://a\b.example/x", "https://a\u0085b.example/x"]
)
def test_a_webhook_that_would_be_stored_otherwise_than_written_is_refused(odd: str) -> None:
    with pytest.raises(ConfigError, match="must be an http"):
        parse(f"study: example\ntracking: {{notify: {{webhook: '{odd}'}}}}")


def test_what_came_later_changes_no_hash_while_it_is_unused() -> None:
    assert TrialConfig().hash == "bad0a8eacfd8bee0"  # as version 0.1.0 had it
    used = TrialConfig.model_validate({"model": {"frozen_share": 0.5}})
    assert used.hash != TrialConfig().hash
    assert TrialConfig.model_validate_json(used.canonical_json()) == used


@pytest.mark.parametrize("document", ["models", "recipes", "search"])
def test_what_documents_show_of_study_files_is_accepted(document: str) -> None:
    text = (Path(__file__).parents[3] / "docs" / f"{document}.md").read_text(encoding="utf-8")
    shown = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    assert len(shown) >= 2
    for part in shown:
        assert StudyFile.parse(f"study: shown\n{part}", f"{document}.md").study == "shown"


def test_a_data_folder_in_a_home_that_is_not_known_is_refused_with_its_line() -> None:
    assert refusal("root: data/hms", "root: ~no-such-user/hms") == (
        "studies/example.yaml:2: data.root: there is no home folder ~no-such-user for ~no-such-user/hms. "
        "Give the whole path, from /"
    )
