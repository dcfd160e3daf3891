"""A disk on which one call finds no room: whichever the test names, of all that write below a folder."""

from __future__ import annotations

import builtins
import errno
import io
import os
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

_ITS_OWN = re.compile(r"(?<=\.hms-tune-)\w{8}|study-[\d-]+|checkpoint-\d+|\d{3,}|(?<=\.)[0-9a-f]{8,}")
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT

Call = tuple[str, int]
"""A kind of call (``write scratch/…/checkpoint.partial``) and which of that kind, from 0."""


class FullDisk:
    """Numbers every mkdir, open for writing, write, fsync, rename and link below ``root``, and fails one.

    Calls are numbered by kind and name, not by order, so that threads do not mix them up.

    Parameters
    ----------
    fails : the call that finds no room; None: only look
    stays : whether every call after it fails too
    """

    def __init__(self, root: Path, fails: Call | None = None, *, stays: bool = False) -> None:
        self.root = root.resolve()
        self.fails = fails
        self.stays = stays
        self.failed = 0
        self.calls: list[Call] = []
        self._counted: Counter[str] = Counter()
        self._lock = threading.Lock()

    def meets(self, what: str, path: Any) -> None:
        """Count a call; raise where it is the one."""
        try:
            name = Path(os.fspath(path)).absolute().relative_to(self.root).as_posix()
        except (TypeError, ValueError):
            return
        kind = f"{what} {_ITS_OWN.sub('#', name)}"
        with self._lock:
            call = (kind, self._counted[kind])
            self._counted[kind] += 1
            self.calls.append(call)
            if call != self.fails and not (self.stays and self.failed):
                return
            self.failed += 1
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    @contextmanager
    def mounted(self) -> Iterator[FullDisk]:
        """In force until the block ends."""
        with pytest.MonkeyPatch.context() as patch:
            opened = io.open
            for module in (io, builtins):
                patch.setattr(module, "open", self._opening(opened))
            patch.setattr(os, "open", self._low_opening(os.open))
            for name in ("mkdir", "replace", "rename", "link"):
                patch.setattr(os, name, self._naming(name, getattr(os, name)))
            for name in ("fsync", "write", "pwrite", "ftruncate"):
                patch.setattr(os, name, self._handling(name, getattr(os, name)))
            yield self

    def _opening(self, opened: Callable[..., Any]) -> Callable[..., Any]:
        def opening(file: Any, mode: str = "r", *arguments: Any, **named: Any) -> Any:
            if isinstance(file, int) or not set(mode) & set("wax+"):
                return opened(file, mode, *arguments, **named)
            self.meets("open", file)
            return _Written(opened(file, mode, *arguments, **named), self, file)

        return opening

    def _low_opening(self, opened: Callable[..., int]) -> Callable[..., int]:
        def opening(path: Any, flags: int, *arguments: Any, **named: Any) -> int:
            if flags & _WRITES:
                self.meets("open", path)
            return opened(path, flags, *arguments, **named)

        return opening

    def _naming(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def naming(*arguments: Any, **named: Any) -> Any:
            if name != "mkdir" or not os.path.exists(arguments[0]):
                self.meets(name, arguments[-1] if name != "mkdir" else arguments[0])
            return call(*arguments, **named)

        return naming

    def _handling(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def handling(handle: int, *arguments: Any) -> Any:
            self.meets(name, os.readlink(f"/proc/self/fd/{handle}"))
            return call(handle, *arguments)

        return handling


class _Written:
    """A file open for writing, whose every write may be the one."""

    def __init__(self, file: Any, disk: FullDisk, path: Any) -> None:
        self._file, self._disk, self._path = file, disk, path

    def write(self, content: Any) -> Any:
        self._disk.meets("write", self._path)
        return self._file.write(content)

    def __enter__(self) -> _Written:
        self._file.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.__exit__(*exception)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._file)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)
