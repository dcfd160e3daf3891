"""Options that several commands share, and what they mean together with the environment."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hms_tune.config.settings import Settings, dashboard_folder
from hms_tune.config.study_file import SUFFIXES, StudyFile, load_study_file
from hms_tune.errors import UsageError

if TYPE_CHECKING:
    from hms_tune.database.connect import Storage

StorageOption = Annotated[
    str | None,
    typer.Option(
        "--storage",
        metavar="URL",
        help="PostgreSQL; else HMS_TUNE_STORAGE, else the embedded server of this machine.",
        show_default=False,
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def study_name(name_or_path: str) -> str:
    """The study that a name, or a study file's path, means."""
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
            "no competition folder is named", mend="Give --data ROOT, set HMS_TUNE_DATA, or write data.root"
        )
    return root


def artifacts_location(settings: Settings) -> str:
    """Where checkpoints lie: a folder, or ``s3://bucket/prefix``."""
    return settings.artifacts or str(settings.home / "artifacts")


def artifacts_folder(settings: Settings) -> Path:
    """The folder of the files that the dashboard shows."""
    return dashboard_folder(artifacts_location(settings), settings.home)


@contextmanager
def opened(storage: str | None, *, read_only: bool = False) -> Iterator[Storage]:
    """The database a command works on."""
    from hms_tune.database.connect import open_storage, resolve_address

    settings = Settings.from_environment()
    address = resolve_address(storage or settings.storage, home=settings.home)
    if read_only:
        from hms_tune.database.read_only import open_read_only

        database = open_read_only(address)
    else:
        database = open_storage(address)
    try:
        yield database
    finally:
        database.close()
