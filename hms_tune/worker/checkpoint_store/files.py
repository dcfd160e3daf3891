"""A place for files that the whole fleet can reach, under names that never change their content."""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from hms_tune.errors import ArtifactError, UsageError


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

    def keys(self, prefix: str) -> list[str]:
        """Keys that begin with ``prefix``, which ends at a ``/``, in order.

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


class DirectoryStore:
    """A directory, on this machine or shared by the fleet."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def put(self, key: str, path: Path) -> None:
        """Link the file where that is possible, else copy it, flush it and rename it into place."""
        target = self._root / key
        partial = target.with_name(f"{target.name}.{os.getpid()}.partial")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            partial.unlink(missing_ok=True)
            _link_or_copy(path, partial)
            partial.replace(target)
        except FileNotFoundError:
            if path.exists():
                raise _failed("cannot be written", target, None) from None
            raise
        except OSError as error:
            with suppress(OSError):
                partial.unlink(missing_ok=True)
            raise _failed("cannot be written", target, error) from error

    def fetch(self, key: str, path: Path) -> None:
        """Link or copy the file to ``path``."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink(missing_ok=True)
            _link_or_copy(self._root / key, path)
        except OSError as error:
            raise _failed("cannot be read", self._root / key, error) from error

    def keys(self, prefix: str) -> list[str]:
        """Files below the directory ``prefix``."""
        try:
            found = [
                path.relative_to(self._root).as_posix()
                for path in (self._root / prefix).rglob("*")
                if path.suffix != ".partial" and path.is_file()
            ]
        except OSError as error:
            raise _failed("cannot be listed", self._root / prefix, error) from error
        return sorted(found)

    def remove(self, keys: Collection[str]) -> None:
        """Remove files, and directories that are empty then."""
        for key in keys:
            path = self._root / key
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                raise _failed("cannot be removed", path, error) from error
            for folder in list(path.parents)[: len(Path(key).parents) - 1]:
                with suppress(OSError):  # not empty
                    folder.rmdir()


def open_store(location: str | Path) -> ObjectStore:
    """The store at a folder or an ``s3://bucket/prefix``.

    Raises
    ------
    UsageError
        If it is an address of another kind, or boto3 is missing.
    """
    text = str(location)
    if text.startswith("s3://"):
        from hms_tune.worker.checkpoint_store.s3 import S3Store

        return S3Store.at(text)
    if "://" in text:
        raise UsageError(
            f"{text.partition('://')[0]}:// cannot hold artifacts",
            where="HMS_TUNE_ARTIFACTS",
            mend="Name a folder that all machines share, or s3://BUCKET/PREFIX",
        )
    return DirectoryStore(Path(text).expanduser())


def _link_or_copy(source: Path, target: Path) -> None:
    """Checkpoints are never changed in place, so a second name for the same bytes is as good as a copy."""
    try:
        os.link(source, target)
    except FileNotFoundError:
        raise
    except OSError:  # another file system, or one without links
        with source.open("rb") as reading, target.open("wb") as writing:
            shutil.copyfileobj(reading, writing, 1 << 20)
            writing.flush()
            os.fsync(writing.fileno())


def _failed(what: str, path: Path, error: OSError | None) -> ArtifactError:
    reason = "" if error is None else f" ({error.strerror or error})"
    return ArtifactError(f"{what}{reason}", where=path, mend="Check HMS_TUNE_ARTIFACTS and the room there")
