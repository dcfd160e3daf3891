"""Options that several commands share, and the environment variables that stand in for them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer.core import TyperCommand

from hms_tune.config.settings import Settings, dashboard_folder
from hms_tune.errors import UsageError

if TYPE_CHECKING:
    from hms_tune.config.study_file import StudyFile
    from hms_tune.database.connect import Storage


def refuse_password(option: str, instead: str) -> None:
    """Raise UsageError: no password is taken from the command line."""
    raise UsageError(
        "a password stands on the command line: every user of this machine can read it in the list of "
        "processes, and the shell keeps it",
        where=option,
        hint=instead,
    )


def _without_password(storage: str | None) -> str | None:
    if storage is not None:
        from hms_tune.database.connection.url import holds_secret

        if holds_secret(storage):
            instead = "Set HMS_TUNE_STORAGE to the address, or write the password into PGPASSFILE's file"
            refuse_password("--storage", instead)
    return storage


StorageOption = Annotated[
    str | None,
    typer.Option(
        "--storage",
        metavar="URL",
        help="PostgreSQL, no password in it; else HMS_TUNE_STORAGE, else this machine's embedded server.",
        callback=_without_password,
        show_default=False,
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
DataOption = Annotated[
    Path | None,
    typer.Option(
        "--data", metavar="ROOT", help="Competition folder; else the study file's, else HMS_TUNE_DATA."
    ),
]
DeviceOption = Annotated[str, typer.Option("--device", help="auto (a GPU, else the CPU), cpu or cuda:0.")]
JobsOption = Annotated[
    int | None, typer.Option("--jobs", min=1, help="Files handled at once; one for each core by default.")
]
RootArgument = Annotated[
    Path, typer.Argument(metavar="ROOT", help="Competition folder: train.csv, train_eegs/, …")
]
StudyArgument = Annotated[
    str,
    typer.Argument(
        metavar="NAME", help="Name of a study, or the path of its study file. --study NAME is the same."
    ),
]
_STUDY = "--study"


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
        if word == _STUDY:
            if place + 1 >= end:
                raise typer.BadParameter(f"Option '{_STUDY}' requires an argument.")
            return [words[place + 1], *words[:place], *words[place + 2 :]]
        if word.startswith(f"{_STUDY}="):
            return [word.removeprefix(f"{_STUDY}="), *words[:place], *words[place + 1 :]]
    return words


def key_and_value(text: str, *, option: str) -> tuple[str, str]:
    """A dotted key and its value, from ``KEY=VALUE``.

    Raises
    ------
    UsageError
        If it is something else.
    """
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise UsageError(
            f"{text!r} is not KEY=VALUE", where=option, hint="In one word, for example model.dropout=0.1"
        )
    return key.strip(), value


def study_name(name_or_path: str) -> str:
    """The study that a name, or a study file's path, means."""
    from hms_tune.config.study_file import SUFFIXES, load_study_file  # takes half a second

    return load_study_file(name_or_path).study if name_or_path.endswith(SUFFIXES) else name_or_path


def data_root(given: Path | None, study_file: StudyFile, settings: Settings) -> Path:
    """The competition folder: the option's, else the study file's, else the environment's.

    Raises
    ------
    UsageError
        If none names one.
    """
    root = given or study_file.data_root or settings.data
    if root is None:
        raise UsageError(
            "no competition folder is named", hint="Give --data ROOT, set HMS_TUNE_DATA, or write data.root"
        )
    return root


def artifacts_location(settings: Settings) -> str:
    """Where checkpoints are kept: a folder, or ``s3://bucket/prefix``."""
    return settings.artifacts or str(settings.home / "artifacts")


def artifacts_folder(settings: Settings) -> Path:
    """The folder of the files that the dashboard shows."""
    return dashboard_folder(artifacts_location(settings), settings.home)


@contextmanager
def opened(storage: str | None, *, to: Literal["read", "change", "serve"] = "change") -> Iterator[Storage]:
    """The database a command works on.

    Parameters
    ----------
    to : ``read`` changes nothing, ``serve`` (read to others) makes a role for that
    """
    from hms_tune.database.connect import missing_rights_told, open_storage, resolve_address
    from hms_tune.database.read_only import open_read_only, open_to_read

    settings = Settings.from_environment()
    address = resolve_address(storage or settings.storage, home=settings.home)
    opening = {"read": open_to_read, "change": open_storage, "serve": open_read_only}[to]
    database = opening(address)
    try:
        with missing_rights_told(address, "work" if to == "change" else "read"):
            yield database
    finally:
        database.close()
