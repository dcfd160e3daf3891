"""The study is the first argument of every command that is about one; ``--study NAME`` is the same."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from hms_tune.cli.main import COMMANDS, app, load
from hms_tune.cli.options import study_first
from hms_tune.errors import UsageError

FURTHER = {
    "study report": ("--out", "x.html"),
    "study stop-trial": ("3",),
    "study drain": ("--worker", "gpu-1"),
    "study enqueue": ("model.dropout=0.1",),
    "study save": ("mine.zip",),
}
"""What a command needs besides."""


def about_a_study() -> Iterator[tuple[str, Any]]:
    """Commands with an argument or an option that names a study."""
    for name in COMMANDS:
        command = load(name)
        for full, each in [
            (f"{name} {sub}", one) for sub, one in getattr(command, "commands", {}).items()
        ] or [(name, command)]:
            if any(param.name == "study" for param in each.params) and full != "data folds":
                yield full, each


COMMANDS_ABOUT_A_STUDY = dict(about_a_study())


def test_there_are_as_many_as_people_know() -> None:
    assert sorted(COMMANDS_ABOUT_A_STUDY) == sorted(
        [
            *(
                "worker",
                "status",
                "export-best",
                "train",
                "study check",
                "study show",
                "study report",
                "study notify",
            ),
            *("study pause", "study resume", "study stop", "study stop-trial", "study drain"),
            *("study enqueue", "study confirm", "study delete", "study save"),
        ]
    )


@pytest.mark.parametrize("name", COMMANDS_ABOUT_A_STUDY)
def test_the_study_is_the_first_argument_and_the_option_is_the_same(name: str) -> None:
    further = FURTHER.get(name, ())
    spellings = [
        ["mine", *further],
        ["--study", "mine", *further],
        [*further, "--study", "mine"],
        ["--study=mine", *further],
    ]
    read = [COMMANDS_ABOUT_A_STUDY[name].make_context(name, list(words)).params for words in spellings]
    assert read[0]["study"] == "mine"
    assert read[1:] == [read[0]] * 3


@pytest.mark.parametrize("words", [["--set", "training.epochs", "20"], ["--set", "=20"]])
def test_a_value_to_be_set_is_one_word(words: list[str]) -> None:
    with pytest.raises(UsageError, match=r"is not KEY=VALUE. In one word, for example model.dropout=0.1"):
        COMMANDS_ABOUT_A_STUDY["train"].make_context("train", ["mine", *words])


def test_a_study_named_twice_is_refused() -> None:
    result = CliRunner().invoke(app, ["status", "mine", "--study", "other"])
    assert result.exit_code == 2
    assert "unexpected extra argument" in result.output


def test_the_option_without_a_name_is_refused() -> None:
    with pytest.raises(typer.BadParameter, match="requires an argument"):
        study_first(["--json", "--study"])


def test_words_after_two_dashes_are_left_alone() -> None:
    assert study_first(["a", "--", "--study", "b"]) == ["a", "--", "--study", "b"]
