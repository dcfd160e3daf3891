"""What a machine brings along: settings from the environment."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import platformdirs

from hms_tune.errors import UsageError

DEFAULT_LEASE_SECONDS = 180.0
DEFAULT_CHECKPOINT_SECONDS = 30.0


def expanded(path: str | Path, *, where: str, hint: str = "Give the whole path, from /") -> Path:
    """A path that may begin with ``~``.

    Parameters
    ----------
    where : the variable or key that names it, for the error

    Raises
    ------
    UsageError
        If that home folder is not known.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:  # no HOME, and no line in /etc/passwd
        start = Path(path).parts[0]
        what = "this user has no home folder" if start == "~" else f"there is no home folder {start}"
        raise UsageError(f"{what} for {path}", where=where, hint=hint) from error


def dashboard_folder(artifacts: str | Path, home: Path) -> Path:
    """The folder of the files that the dashboard shows: ``artifacts``, unless that is in S3."""
    return home / "artifacts" if "://" in str(artifacts) else Path(artifacts)


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings that belong to a machine, not to a study.

    Attributes
    ----------
    storage : PostgreSQL address (``HMS_TUNE_STORAGE``); None: the embedded server. Kept out of ``repr``.
    home : folder of the embedded server, checkpoints and caches (``HMS_TUNE_HOME``)
    studies : further folder of study files (``HMS_TUNE_STUDIES``)
    data : competition folder, unless a study file or a command names one (``HMS_TUNE_DATA``)
    artifacts : folder or ``s3://`` address shared by the fleet (``HMS_TUNE_ARTIFACTS``); None: under ``home``
    dashboard_password : asked of whoever opens the dashboard (``HMS_TUNE_DASHBOARD_PASSWORD``); None: nobody
        is asked. Kept out of ``repr``.
    checkpoint_seconds : a trial is written down after the first epoch that ends so long after the last time
        (``HMS_TUNE_CHECKPOINT_SECONDS``); a killed worker costs about so much work. 0: after every epoch
    lease_seconds : how long a silent worker keeps its trial (``HMS_TUNE_LEASE_SECONDS``)
    """

    home: Path
    storage: str | None = field(default=None, repr=False)
    studies: Path | None = None
    data: Path | None = None
    artifacts: str | None = None
    dashboard_password: str | None = field(default=None, repr=False)
    lease_seconds: float = DEFAULT_LEASE_SECONDS
    checkpoint_seconds: float = DEFAULT_CHECKPOINT_SECONDS

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] | None = None) -> Self:
        """Read the ``HMS_TUNE_…`` variables; empty ones count as unset.

        Raises
        ------
        UsageError
            If this user has no home folder and none is named; if a path begins with one that is not known;
            if HMS_TUNE_LEASE_SECONDS is no number of at least 1, or HMS_TUNE_CHECKPOINT_SECONDS none of at
            least 0.
        """
        environ = os.environ if environ is None else environ

        def text(name: str) -> str | None:
            return environ.get(f"HMS_TUNE_{name}", "").strip() or None

        def path(name: str) -> Path | None:
            value = text(name)
            return None if value is None else expanded(value, where=f"HMS_TUNE_{name}")

        def seconds(name: str, default: float, *, least: float) -> float:
            value = text(name)
            return default if value is None else _seconds(f"HMS_TUNE_{name}", value, least=least)

        artifacts = text("ARTIFACTS")
        if artifacts is not None and "://" not in artifacts:
            artifacts = str(expanded(artifacts, where="HMS_TUNE_ARTIFACTS"))
        return cls(
            home=path("HOME") or _own_home(),
            storage=text("STORAGE"),
            studies=path("STUDIES"),
            data=path("DATA"),
            artifacts=artifacts,
            dashboard_password=text("DASHBOARD_PASSWORD"),
            lease_seconds=seconds("LEASE_SECONDS", DEFAULT_LEASE_SECONDS, least=1.0),
            checkpoint_seconds=seconds("CHECKPOINT_SECONDS", DEFAULT_CHECKPOINT_SECONDS, least=0.0),
        )


def _own_home() -> Path:
    try:
        return Path(platformdirs.user_data_dir("hms-tune", appauthor=False))
    except RuntimeError as error:  # no HOME, and no line in /etc/passwd
        raise UsageError(
            "this user has no home folder",
            where="HMS_TUNE_HOME",
            hint="Set it to a folder of your own: the database, checkpoints and caches lie there",
        ) from error


def _seconds(name: str, value: str, *, least: float) -> float:
    try:
        seconds = float(value)
    except ValueError:
        seconds = math.nan
    if not least <= seconds < math.inf:
        raise UsageError(
            f'"{value}" is no number of seconds', where=name, hint=f"Give at least {least:g}, for example 60"
        )
    return seconds
