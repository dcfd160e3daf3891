"""The command lines that README.md and the documents show, and what the words in them stand for."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from typer.main import get_command

from hms_tune.cli.main import COMMANDS, app, load

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "data/README.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "docs/decisions").glob("*.md")),
]

PROGRAMS = (
    *("hms-tune", "python", "pytest", "make", "pip", "wandb"),
    *("torchrun", "docker", "ssh", "tmux", "export", "sbatch", "kubectl", "sky", "kaggle"),
)
"""What a command line begins with, after any variables."""

_INCOMPLETE = ("MissingParameter", "BadOptionUsage", "BadArgumentUsage")
"""How a parser says that something is missing, not that something is wrong."""


@dataclass(frozen=True, slots=True)
class Line:
    """A command line as it is shown, in a ``console`` block or between backticks."""

    document: str
    text: str
    shown: Literal["block", "inline"]

    @property
    def words(self) -> list[str]:
        """Its words, without comments and variables."""
        words = shlex.split(self.text, comments=True)
        return words[next((i for i, word in enumerate(words) if not is_variable(word)), len(words)) :]

    @property
    def variables(self) -> dict[str, str]:
        """What is set before the command."""
        words = shlex.split(self.text, comments=True)
        return dict(word.split("=", 1) for word in words[: len(words) - len(self.words)])


def is_variable(word: str) -> bool:
    return re.fullmatch(r"[A-Z_]+=.*", word) is not None


def lines_of(document: Path) -> list[Line]:
    """The command lines of a document, in its order."""
    name = str(document.relative_to(ROOT))
    found: list[Line] = []
    for kind, text in _parts(document.read_text(encoding="utf-8")):
        if kind == "console":
            joined = re.sub(r"\\\n\s*", "", text)
            found += [Line(name, line.strip(), "block") for line in joined.splitlines() if line.strip()]
        elif kind == "text":
            # a span may go over the end of a line
            spans = (" ".join(span.split()) for span in re.findall(r"`([^`]+)`", text))
            found += [Line(name, span, "inline") for span in spans if begins_with_a_program(span)]
    return found


def stray_lines_of(document: Path) -> list[str]:
    """Command lines that stand in a block of another kind, where no test would find them."""
    stray = []
    for kind, text in _parts(document.read_text(encoding="utf-8")):
        if kind not in ("console", "yaml", "python", "sql"):
            indented = "    " if kind == "text" else ""
            lines = [line.strip() for line in text.splitlines() if line.startswith(indented)]
            stray += [line for line in lines if begins_with_a_program(line)]
    return stray


def begins_with_a_program(text: str) -> bool:
    words = text.replace("\\|", "|").split()
    words = words[next((i for i, word in enumerate(words) if not is_variable(word)), len(words)) :]
    return len(words) > 1 and words[0] in PROGRAMS


def _parts(text: str) -> Iterator[tuple[str, str]]:
    """Pieces of a document: the kind of each block (``text`` between blocks) and what it holds."""
    pieces = re.split(r"^```(\w*)\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    for place in range(0, len(pieces), 3):
        yield "text", pieces[place]
        if place + 1 < len(pieces):
            yield pieces[place + 1], pieces[place + 2]


def variants(text: str) -> list[str]:
    """A synopsis without the options in brackets, and with all of them; else the line itself."""
    option = r"\s*\[(--[^\]]*)\]"
    return list(dict.fromkeys([re.sub(option, "", text), re.sub(option, r" \1", text)]))


def is_complete(arguments: list[str]) -> bool:
    """Whether ``hms-tune`` takes these arguments as they are, or would ask for more.

    Raises
    ------
    AssertionError
        If there is no such command or option, or a value is refused.
    """
    if arguments[0].startswith("--"):
        options = [option for each in get_command(app).params for option in each.opts]
        assert arguments[0] in options, f"there is no option {arguments[0]}"
        return True
    assert arguments[0] in COMMANDS, f"there is no command {arguments[0]}"
    command: Any = load(arguments[0])
    rest = arguments[1:]
    while hasattr(command, "commands"):
        if not rest:
            return False
        assert rest[0] in command.commands, f"there is no command {' '.join(arguments)}"
        command, rest = command.commands[rest[0]], rest[1:]
    try:
        command.make_context("hms-tune", list(rest))
    except Exception as error:  # of the parser that typer brings along
        if type(error).__name__ in _INCOMPLETE:
            return False
        raise AssertionError(str(error)) from error
    return True
