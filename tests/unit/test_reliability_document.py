"""docs/reliability.md names a test for every fault, and each of its commands finds what it says."""

from __future__ import annotations

import ast
import re
import shlex
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

FAULTS = {
    "SIGKILL of workers": "sigkill_of_workers",
    "SIGTERM / SIGINT / USR1 / USR2": "sigterm_sigint_and_usr1",
    "database outage, fail-over, dropped connection": "database_outage",
    "deadlock, serialization failure": "deadlock_and_serialization_failure",
    "paused worker": "paused_worker",
    "clocks wrong by ±12 h, mixed time zones": "clocks_wrong_by_12_h_in_mixed_time_zones",
    "CUDA out of memory": "cuda_out_of_memory",
    "host out of memory, segfault in a trial": "host_out_of_memory_or_segfault",
    "non-finite loss": "non_finite_loss",
    "disk full while checkpointing": "disk_full_while_checkpointing",
    "corrupt or truncated checkpoint": "corrupt_or_truncated_checkpoint",
    "corrupt, short, empty, renamed or wrong-typed": "corrupt_short_empty_renamed_or_wrong_typed",
    "tracking service down": "tracking_service_down",
    "two workers claim at once": "two_workers_claim_at_once",
    "study-wide budget": "study_wide_budget",
    "foreign checkpoint or model file": "foreign_checkpoint_or_model_file",
    "study name, YAML, zip, path from outside": "study_name_yaml_zip_and_path_from_outside",
    "secrets": "secrets",
    "dashboard exposed": "dashboard_exposed",
}
"""What may go wrong, and the words of its test's name."""


def table() -> dict[str, list[str]]:
    """The commands of each row, by its first cell."""
    text = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
    block = text.partition("| fault |")[2].partition("\n\n")[0]
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in block.splitlines()[2:]]
    return {row[0].strip("| "): re.findall(r"`([^`]+)`", row[2]) for row in rows}


TABLE = table()


@cache
def names_in(path: Path) -> list[str]:
    """Names of the test functions of a file, or of all files below a folder."""
    files = sorted(path.rglob("test_*.py")) if path.is_dir() else [path]
    return [
        node.name
        for file in files
        for node in ast.parse(file.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    ]


def selected(command: str) -> list[str]:
    """The tests that a pytest command runs."""
    words = [word for word in shlex.split(command) if "=" not in word]
    assert words[0] == "pytest", command
    expression = words[words.index("-k") + 1] if "-k" in words else ""
    places = words[1 : words.index("-k")] if "-k" in words else words[1:]
    names = [name for place in places for name in names_in(ROOT / place)]
    wanted = [set(alternative.split(" and ")) for alternative in expression.split(" or ")]
    return [name for name in names if any(all(word in name for word in every) for every in wanted)]


@pytest.mark.parametrize("fault", TABLE)
def test_every_command_of_the_table_runs_something(fault: str) -> None:
    assert TABLE[fault], fault
    for command in TABLE[fault]:
        if command.startswith("pytest") or " pytest " in command:
            assert selected(command), command
        elif command.startswith("make "):
            assert re.search(rf"^{command.split()[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
        else:
            assert (ROOT / command.split()[1]).is_file(), command


def test_every_test_that_a_document_names_exists() -> None:
    for document in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for command in re.findall(r"`((?:L=1 )?pytest [^`]*)`", document.read_text(encoding="utf-8")):
            options = shlex.split(command)
            assert selected(shlex.join([word for word in options if word != "-s"])), (document.name, command)


@pytest.mark.parametrize("fault", FAULTS)
def test_every_fault_has_a_row_and_a_test_of_its_name(fault: str) -> None:
    (row,) = [row for row in TABLE if row.startswith(fault)]
    commands = [command for command in TABLE[row] if "pytest " in command]
    assert any(FAULTS[fault] in name for command in commands for name in selected(command)), commands
