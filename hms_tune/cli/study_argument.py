"""The study that a command is about: its first argument, of every command."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperCommand

StudyArgument = Annotated[
    str,
    typer.Argument(
        metavar="NAME", help="Name of a study, or the path of its study file. --study NAME is the same."
    ),
]
_OPTION = "--study"


class StudyCommand(TyperCommand):
    """A command that takes ``--study NAME`` in place of its argument NAME, if it has one."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the words after the command."""
        arguments = [each for each in self.params if each.param_type_name == "argument"]
        if arguments and arguments[0].name == "study":
            args = study_first(args)
        return super().parse_args(ctx, args)


def study_first(words: list[str]) -> list[str]:
    """The words with the value of ``--study``, if it is there, before all others.

    Raises
    ------
    typer.BadParameter
        If it has no value.
    """
    end = words.index("--") if "--" in words else len(words)
    for place, word in enumerate(words[:end]):
        if word == _OPTION:
            if place + 1 >= end:
                raise typer.BadParameter(f"Option '{_OPTION}' requires an argument.")
            return [words[place + 1], *words[:place], *words[place + 2 :]]
        if word.startswith(f"{_OPTION}="):
            return [word.removeprefix(f"{_OPTION}="), *words[:place], *words[place + 1 :]]
    return words
