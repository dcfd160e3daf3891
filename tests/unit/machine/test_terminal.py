"""Nothing that comes from outside commands the terminal."""

from __future__ import annotations

import ast
import io
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.table import Table
from rich.text import Text

import hms_tune
from hms_tune.cli.console import log_to
from hms_tune.cli.main import main
from hms_tune.machine.terminal import Terminal, printable

PACKAGE = Path(hms_tune.__file__).parent
HOSTILE = "a\x1b]0;owned\x07b\x1b[2Jc\x9bd\rx\x08y\u202ez"
LEFT = "a]0;ownedb[2JcdxyzX"


def test_tabs_lines_and_letters_of_all_languages_stay() -> None:
    assert printable("é–µ\t漢\n") == "é–µ\t漢\n"


@pytest.mark.parametrize("terminal", [True, False])
def test_a_table_keeps_its_colours_and_drops_what_its_cells_command(terminal: bool) -> None:
    file = io.StringIO()
    colours = "standard" if terminal else None
    console = Terminal(file=file, color_system=colours, width=80, highlight=False, _environ={})
    table = Table(header_style="bold")
    table.add_column(HOSTILE)
    table.add_row(Text(HOSTILE))
    table.add_row(HOSTILE)
    console.print(table)
    console.print(HOSTILE + "X", markup=False)
    said = file.getvalue()
    assert LEFT in said
    assert ("\x1b[1m" in said) is terminal
    for colour in ("\x1b[1m", "\x1b[0m"):
        said = said.replace(colour, "")
    assert said == printable(said)


def test_a_log_line_commands_nothing() -> None:
    file = io.StringIO()
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        log_to(Terminal(file=file))
        logging.getLogger("hms_tune").warning("%s", HOSTILE)
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
    assert file.getvalue() == "warning: " + printable(HOSTILE) + "\n"


@pytest.mark.parametrize("json", [False, True])
def test_keys_of_a_study_file_command_nothing_when_they_are_refused(
    tmp_path: Path, json: bool, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "a.yaml"
    file.write_text('study: a\n"\\e]0;owned\\a\\x9b2J": 1\n')
    command = ["hms-tune", "study", "check", str(file), *(["--json"] if json else [])]
    monkeypatch.setattr(sys, "argv", command)
    for name in ("stdout", "stderr"):  # put back afterwards: the command puts its filter before them
        monkeypatch.setattr(sys, name, getattr(sys, name))
    with pytest.raises(SystemExit):
        main()
    out, err = capfd.readouterr()
    assert "owned" in err
    assert out + err == printable(out + err)


def test_no_program_finds_a_way_past_the_filter() -> None:
    program = (
        "from hms_tune.machine.terminal import guard_streams\n"
        "guard_streams()\n"
        "import click\n"
        "click.echo('a\\x1b]0;b')"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "a]0;b\n"


def test_every_console_is_made_here() -> None:
    elsewhere = [
        f"{file.relative_to(PACKAGE)}:{node.lineno}"
        for file in sorted(PACKAGE.rglob("*.py"))
        if "Console(" in (text := file.read_text(encoding="utf-8"))
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Console"
    ]
    assert elsewhere == []
