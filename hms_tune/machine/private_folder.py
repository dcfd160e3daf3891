"""Folders that other users of the machine cannot enter, and folders in which others may have put links.

A folder with the set-group-ID bit (``chmod g+s``) asks for its group: what is made in it is the group's too.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


def private_folder(folder: Path, *, links: bool = True) -> None:
    """Make a folder, and the parents that it lacks, for this user alone; one that is there stays as it is.

    Parameters
    ----------
    links : False where we choose the name: a link of that name would lead what is written elsewhere
    """
    for each in reversed((folder, *folder.parents)):
        _make(each)
    if not links and folder.is_symlink():
        raise OSError(errno.ELOOP, "it is a link, and nothing is written through one", str(folder))


def _make(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        if not folder.is_dir():
            raise
    else:
        if _of_the_group(folder.parent):
            folder.chmod(0o2770)


def is_writable(folder: Path) -> bool:
    """Whether this user may write to a folder, or make it where it is not there. Nothing is made."""
    existing = next(each for each in (folder, *folder.parents) if os.path.lexists(each))
    return existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)


def private_mode(folder: int | Path) -> int:
    """The mode of a new file in a folder, given by its path or open handle."""
    return 0o660 if _of_the_group(folder) else 0o600


@contextmanager
def folder_without_links(root: Path, below: PurePosixPath, *, make: bool = False) -> Iterator[int]:
    """A handle on the folder ``below`` the root, on the way to which there is no link.

    Whoever may write to the root cannot lead elsewhere what is then done relative to the handle.

    Parameters
    ----------
    make : whether folders that are not there are made

    Raises
    ------
    OSError
        If there is no such folder, or a link stands in for one.
    """
    if make:
        private_folder(root)
    handle = os.open(root, _FOLDER)
    try:
        for part in below.parts:
            if make:
                _make_in(handle, part)
            inner = os.open(part, _FOLDER | os.O_NOFOLLOW, dir_fd=handle)
            os.close(handle)
            handle = inner
        yield handle
    finally:
        os.close(handle)


def _make_in(handle: int, name: str) -> None:
    with suppress(FileExistsError):
        os.mkdir(name, 0o700, dir_fd=handle)
        if _of_the_group(handle):
            os.chmod(name, 0o2770, dir_fd=handle)


def _of_the_group(folder: int | Path) -> bool:
    return bool(os.stat(folder).st_mode & stat.S_ISGID)
