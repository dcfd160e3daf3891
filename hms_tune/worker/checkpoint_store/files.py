"""A place for files that the whole fleet can reach, under names that never change their content."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Collection
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Protocol

from hms_tune.errors import ArtifactError
from hms_tune.machine.private_folder import folder_without_links, is_writable, private_folder, private_mode
from hms_tune.machine.regular_file import open_regular


class ObjectStore(Protocol):
    """Files by key (``study/trial-3/…``). A file is there whole or not at all."""

    def put(self, key: str, path: Path) -> None:
        """Store a file.

        Raises
        ------
        ArtifactError
            If the store cannot take it; nothing of it is there then.
        FileNotFoundError
            If ``path`` is gone.
        """

    def fetch(self, key: str, path: Path) -> None:
        """Write a stored file to ``path``.

        Raises
        ------
        ArtifactError
            If it is not there or the store does not answer.
        """

    def sizes(self, prefix: str) -> dict[str, int]:
        """Keys that begin with ``prefix``, which ends at a ``/``, in order, with the bytes of each file.

        Raises
        ------
        ArtifactError
            If the store does not answer.
        """

    def remove(self, keys: Collection[str]) -> None:
        """Remove files; those that are not there are no error.

        Raises
        ------
        ArtifactError
            If one cannot be removed.
        """

    def room(self) -> int | None:
        """Bytes that it can still take; None: it does not say."""

    def check_writable(self) -> None:
        """See that files can be stored. What is written to find out does not stay.

        Raises
        ------
        ArtifactError
            If they cannot.
        """


class DirectoryStore:
    """A directory, on this machine or shared by the fleet. Links in it lead nowhere: they are refused."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def put(self, key: str, path: Path) -> None:
        """Link the file where that is possible, else copy it, flush it and rename it into place."""
        target = self._root / key
        partial = f"{target.name}.{os.getpid()}.partial"
        try:
            with self._folder(key, make=True) as folder:
                try:
                    _remove(partial, folder)
                    _link_or_copy(FileAt(path), FileAt(partial, folder))
                    os.replace(partial, target.name, src_dir_fd=folder, dst_dir_fd=folder)
                except OSError:
                    with suppress(OSError):
                        _remove(partial, folder)
                    raise
        except FileNotFoundError:
            if path.exists():
                raise _failed("cannot be written", target, None) from None
            raise
        except OSError as error:
            raise _failed("cannot be written", target, error) from error

    def fetch(self, key: str, path: Path) -> None:
        """Link or copy the file to ``path``."""
        try:
            private_folder(path.parent)
            path.unlink(missing_ok=True)
            with self._folder(key) as folder:
                _link_or_copy(FileAt(PurePosixPath(key).name, folder), FileAt(path))
        except OSError as error:
            raise _failed("cannot be read", self._root / key, error) from error

    def sizes(self, prefix: str) -> dict[str, int]:
        """Files below the directory ``prefix``."""
        below = PurePosixPath(prefix)
        try:
            with folder_without_links(self._root, below) as handle:
                found = {
                    (below / folder / name).as_posix(): size
                    for folder, _, names, inside in os.fwalk(".", dir_fd=handle)
                    for name in names
                    if not name.endswith(".partial") and (size := _file_size(name, inside)) is not None
                }
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise _failed("cannot be listed", self._root / prefix, error) from error
        return dict(sorted(found.items()))

    def remove(self, keys: Collection[str]) -> None:
        """Remove files, and directories that are empty then."""
        for key in keys:
            try:
                with self._folder(key) as folder:
                    _remove(PurePosixPath(key).name, folder)
                self._remove_empty(PurePosixPath(key).parent)
            except FileNotFoundError:
                continue
            except OSError as error:
                raise _failed("cannot be removed", self._root / key, error) from error

    def room(self) -> int | None:
        """What the disk has free."""
        there = next(each for each in (self._root, *self._root.absolute().parents) if each.exists())
        return shutil.disk_usage(there).free

    def check_writable(self) -> None:
        """Look at the rights of the folder, or of the one in which it would be made."""
        if not is_writable(self._root):
            raise ArtifactError(
                "cannot be written to", where=self._root, hint="Set HMS_TUNE_ARTIFACTS to a folder of yours"
            )

    def _remove_empty(self, folder: PurePosixPath) -> None:
        for each in (folder, *folder.parents[:-1]):
            with suppress(OSError), folder_without_links(self._root, each.parent) as above:  # not empty
                os.rmdir(each.name, dir_fd=above)

    def _folder(self, key: str, *, make: bool = False) -> AbstractContextManager[int]:
        return folder_without_links(self._root, PurePosixPath(key).parent, make=make)


@dataclass(frozen=True, slots=True)
class FileAt:
    """A file's path, from an open folder where there is one."""

    path: str | Path
    folder: int | None = None

    def open(self) -> BinaryIO:
        """Open it; a link and what is no file are refused."""
        return open_regular(self.path, folder=self.folder, links=False)

    def make(self) -> BinaryIO:
        """Make it, to be written; whatever has its name is refused."""
        mode = 0o600 if self.folder is None else private_mode(self.folder)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        return os.fdopen(os.open(self.path, flags, mode, dir_fd=self.folder), "wb")


def _link_or_copy(source: FileAt, target: FileAt) -> None:
    """Checkpoints are never changed in place, so a second name for the same bytes is as good as a copy."""
    source.open().close()
    try:
        os.link(
            source.path,
            target.path,
            src_dir_fd=source.folder,
            dst_dir_fd=target.folder,
            follow_symlinks=False,
        )
    except FileNotFoundError:
        raise
    except OSError:  # another file system, or one without links
        with source.open() as reading, target.make() as writing:
            shutil.copyfileobj(reading, writing, 1 << 20)
            writing.flush()
            os.fsync(writing.fileno())


def _file_size(name: str, folder: int) -> int | None:
    """The bytes of a file; None of what is none."""
    found = os.stat(name, dir_fd=folder, follow_symlinks=False)
    return found.st_size if stat.S_ISREG(found.st_mode) else None


def _remove(name: str, folder: int) -> None:
    with suppress(FileNotFoundError):
        os.unlink(name, dir_fd=folder)


def _failed(what: str, path: Path, error: OSError | None) -> ArtifactError:
    reason = "" if error is None else f" ({error.strerror or error})"
    return ArtifactError(f"{what}{reason}", where=path, hint="Check HMS_TUNE_ARTIFACTS and the room there")
