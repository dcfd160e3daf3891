"""Who decodes the files of a store and writes them into its arrays: here, or in a process of its own.

A file's place in its array is known only when all files before it have told their length. So a scribe keeps
what it has decoded until it is told where to write it, and decodes the next file meanwhile. Its samples cross
no pipe.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import zlib
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from hms_tune.data.files.decoding import read_signal
from hms_tune.data.files.defects import refuse
from hms_tune.data.files.encoding import Signal
from hms_tune.data.files.footers import length_defects
from hms_tune.data.schema import ARRAYS, Kind
from hms_tune.data.store.journal import Source, Written
from hms_tune.errors import DataError

if TYPE_CHECKING:  # its tables would cost each process as long as all else together
    from hms_tune.data.store.reuse import Shelf


@dataclass(frozen=True, slots=True)
class Order:
    """What a scribe shall do next.

    Parameters
    ----------
    places : numbers of files decoded before, and the row of its array at which each begins
    files : the files to decode next, by number
    """

    places: Mapping[int, int]
    files: Mapping[int, Source]


class Writer(Protocol):
    """A scribe, wherever it works."""

    def carry_out(self, order: Order) -> dict[int, Written]:
        """Write what has its place now, then decode the next files and tell of them, without their starts.

        Raises
        ------
        DataError
            If the file has a defect.
        OSError
            If the disk is full or fails.
        """

    def close(self) -> None:
        """Stop; what has no place yet is dropped."""


class Scribe:
    """A scribe in this process.

    Parameters
    ----------
    partial : folder of the unfinished store
    shelf : an older store, from which unchanged files are copied instead of decoded
    """

    def __init__(self, partial: Path, shelf: Shelf | None) -> None:
        self._shelf = shelf
        self._kept: dict[int, tuple[Kind, memoryview]] = {}
        self._files = ExitStack()
        self._arrays = {
            kind: open_array(partial / name, self._files, writable=True) for kind, (name, _) in ARRAYS.items()
        }
        self._shelves = {
            kind: open_array(shelf.folder / name, self._files, writable=False)
            for kind, (name, _) in ARRAYS.items()
            if shelf is not None
        }

    def carry_out(self, order: Order) -> dict[int, Written]:
        for number, start in order.places.items():
            kind, content = self._kept.pop(number)
            _write_at(self._arrays[kind], content, start * row_bytes(kind))
        told = {}
        for number, source in order.files.items():
            content, told[number] = self._copied(source) or _decoded(source)
            self._kept[number] = source.file.kind, content
        return told

    def close(self) -> None:
        self._kept.clear()
        self._files.close()

    def _copied(self, source: Source) -> tuple[memoryview, Written] | None:
        """An unchanged file's slice of the older store; None if there is none or it is damaged."""
        if self._shelf is None or not self._shelf.has(source):
            return None
        written = self._shelf.written[source.key]
        refuse(length_defects(source.file, written.rows))  # its labels may have changed
        content = read_slice(self._shelves[source.file.kind], written)
        return None if content is None else (content, written)


_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
"""Scribes share the cores out among themselves."""


class ScribeProcess:
    """A scribe in a process of its own, which ends with this one.

    Parameters
    ----------
    partial, shelf : see :class:`Scribe`
    """

    def __init__(self, partial: Path, shelf: Shelf | None) -> None:
        command = [sys.executable, "-c", f"from {__name__} import serve; serve()"]
        environment = os.environ | _ONE_THREAD | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
        )
        self._decoding: list[Source] = []
        self._send((partial, shelf))

    def carry_out(self, order: Order) -> dict[int, Written]:
        self._decoding = list(order.files.values())
        self._send(order)
        assert self._process.stdout is not None
        try:
            answer: dict[int, Written] | Exception = pickle.load(self._process.stdout)
        except (EOFError, pickle.UnpicklingError):
            raise self._died() from None
        if isinstance(answer, Exception):
            raise answer
        return answer

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()

    def _send(self, message: object) -> None:
        assert self._process.stdin is not None
        try:
            pickle.dump(message, self._process.stdin)
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._died() from None

    def _died(self) -> DataError:
        status = self._process.wait()
        paths = [source.file.path for source in self._decoding]
        what = f"the process that decoded this or one of the next files ended with status {status}"
        mend = "Run it again; if memory was short, with fewer --jobs."
        return DataError(what, where=paths[0] if paths else None, mend=mend)


def serve() -> None:
    """Carry out the orders that come on standard input, until it is closed."""
    orders, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever prints must not come between the answers
    try:
        scribe = Scribe(*pickle.load(orders))
        while True:
            try:
                answer: object = scribe.carry_out(pickle.load(orders))
            except (DataError, OSError) as error:
                answer = error
            pickle.dump(answer, answers)
            answers.flush()
    except (EOFError, BrokenPipeError, KeyboardInterrupt):
        os._exit(0)  # whoever gave the orders is gone or ends


def row_bytes(kind: Kind) -> int:
    """Bytes of one sample or frame in the store."""
    return 2 * ARRAYS[kind][1]


def open_array(path: Path, files: ExitStack, *, writable: bool) -> int:
    """A handle of an array, closed with ``files``."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT if writable else os.O_RDONLY, 0o644)
    files.callback(os.close, handle)
    return handle


def read_slice(handle: int, written: Written) -> memoryview | None:
    """The bytes of a slice, or None if they are not what was written."""
    content = bytearray(written.rows * row_bytes(written.kind))
    view, offset = memoryview(content), written.start * row_bytes(written.kind)
    while view:
        count = os.preadv(handle, [view], offset)
        if count == 0:
            return None
        view, offset = view[count:], offset + count
    return memoryview(content) if zlib.crc32(content) == written.checksum else None


def _decoded(source: Source) -> tuple[memoryview, Written]:
    signal, defects = read_signal(source.file)
    refuse(defects)
    return signal.buffer, _entry(source, signal)


def _entry(source: Source, signal: Signal) -> Written:
    return Written(
        kind=source.file.kind,
        split=source.file.split,
        identifier=source.file.identifier,
        size=source.size,
        mtime_ns=source.mtime_ns,
        start=0,  # known when its turn comes
        rows=len(signal.values),
        checksum=zlib.crc32(signal.buffer),
        clipped=signal.clipped,
        centre=tuple(signal.centre.tolist()),
    )


def _write_at(handle: int, content: memoryview, offset: int) -> None:
    """Write all of it; unlike a store through a mapping, a full disk is an error here and not a crash."""
    while content:
        count = os.pwrite(handle, content, offset)
        content, offset = content[count:], offset + count
