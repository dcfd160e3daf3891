"""What the README shows is true: its commands exist, its study file is valid, its links lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from hms_tune.cli.main import COMMANDS, app
from hms_tune.config.study_file import StudyFile

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def shown_commands() -> list[str]:
    """``worker``, ``data prepare`` …: every subcommand named in the table of commands."""
    commands = []
    for row in re.findall(r"^\| `hms-tune (.+?) \|", README, flags=re.MULTILINE):
        words = [re.findall(r"[a-z-]+", part) for part in row.split("`,")]
        group = words[0][0] if row.split()[0] in ("data", "study", "model", "database") else None
        for part in words:
            names = [word for word in part if not word.startswith("--") and word != group]
            commands.append(" ".join([group, names[0]] if group else [part[0]]))
    return commands


def test_the_table_names_every_command_of_the_contract() -> None:
    commands = shown_commands()
    assert len(commands) == len(set(commands))
    assert {command.split()[0] for command in commands} == set(COMMANDS)
    assert {"data prepare", "study pause", "study enqueue"} <= set(commands)


@pytest.mark.parametrize("command", shown_commands())
def test_every_command_in_the_table_exists(command: str) -> None:
    result = CliRunner().invoke(app, [*command.split(), "--help"])
    assert result.exit_code == 0, result.output
    assert "Usage" in result.output


def test_the_study_file_shown_is_valid_and_searches_what_it_says() -> None:
    shown = re.search(r"```yaml\n(.+?)```", README, flags=re.DOTALL)
    assert shown is not None
    study_file = StudyFile.parse(shown.group(1), "README.md")
    assert study_file.study == "mine"
    assert study_file.budget.trials == 200


def test_a_study_file_that_is_shown_under_the_name_of_one_that_comes_along_is_that_file() -> None:
    for document in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for shown in re.findall(r"```yaml\n(study: .+?)```", document.read_text(), flags=re.DOTALL):
            study = StudyFile.parse(shown, document.name)
            alike = ROOT / "studies" / f"{study.study}.yaml"
            assert not alike.exists() or alike.read_text() == shown, f"{document.name}: another {alike.name}"


def test_every_link_leads_to_a_file() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", README)
    assert len(links) >= 5
    missing = [link for link in links if not link.startswith("http") and not (ROOT / link).exists()]
    assert missing == []
