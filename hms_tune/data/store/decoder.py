"""Decoders: each writes files into their places in the arrays of a store, here or in a process of its own."""

from __future__ import annotations

import os
import queue
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path

from hms_tune.data.files.decoding import nothing_of, read_signal
from hms_tune.data.files.defects import errors, refuse
from hms_tune.data.schema import ARRAYS, Kind
from hms_tune.data.store.journal import Written
from hms_tune.data.store.places import Place
from hms_tune.errors import DataError
from hms_tune.machine.child_processes import ChildProcess

WriteFiles = Callable[[Sequence[Place]], list[Written]]
"""Write files into their places.

Raises
------
DataError
    If a file has a defect.
HmsTuneError
    If a process cannot begin.
OSError
    If the disk is full or fails.
"""


@contextmanager
def decoders(partial: Path, older: Path | None, n: int, *, in_processes: bool) -> Iterator[WriteFiles]:
    """Some decoders, which end with the block; each call of what is yielded waits for one that is free.

    Parameters
    ----------
    partial : folder of the unfinished store
    older : folder of an older store, from which unchanged files are copied instead of decoded
    """
    free: queue.SimpleQueue[Decoder | DecoderProcess] = queue.SimpleQueue()

    def write(places: Sequence[Place]) -> list[Written]:
        decoder = free.get()
        try:
            return decoder.write(places)
        finally:
            free.put(decoder)

    with ExitStack() as stack:
        for _ in range(n):
            decoder = (DecoderProcess if in_processes else Decoder)(partial, older)
            stack.callback(decoder.close)
            free.put(decoder)
        yield write


class Decoder:
    """A decoder in this process.

    Parameters
    ----------
    partial, older : see :func:`decoders`
    """

    def __init__(self, partial: Path, older: Path | None) -> None:
        self._files = ExitStack()
        self._arrays = open_arrays(partial, self._files, writable=True)
        self._older = {} if older is None else open_arrays(older, self._files, writable=False)

    def write(self, places: Sequence[Place]) -> list[Written]:
        return [self._write(place) for place in places]

    def close(self) -> None:
        self._files.close()

    def _write(self, place: Place) -> Written:
        content, written = self._copied(place) or _decoded(place)
        kind = place.source.file.kind
        _write_at(self._arrays[kind], content, place.start * row_bytes(kind))
        return written

    def _copied(self, place: Place) -> tuple[memoryview, Written] | None:
        """An unchanged file's slice of the older store; None if there is none or it is damaged."""
        if place.older is None:
            return None
        content = read_slice(self._older[place.older.kind], place.older)
        return None if content is None else (content, replace(place.older, start=place.start))


_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
"""Decoders share the cores out among themselves."""


class DecoderProcess:
    """A decoder in a process of its own, which ends with this one.

    Parameters
    ----------
    partial, older : see :func:`decoders`
    """

    def __init__(self, partial: Path, older: Path | None) -> None:
        self._process = ChildProcess(serve, partial, older, name="a decoder", environment=_ONE_THREAD)

    def write(self, places: Sequence[Place]) -> list[Written]:
        try:
            self._process.pipe.send(places)
            answer: list[Written] | Exception = self._process.pipe.recv()
        except (EOFError, ConnectionError):
            not_begun = self._process.not_begun()
            status = self._process.exitcode
            what = f"the process that decoded this or one of the next files ended with status {status}"
            hint = "Run it again; if memory was short, with fewer --jobs."
            raise not_begun or DataError(what, where=places[0].source.file.path, hint=hint) from None
        if isinstance(answer, Exception):
            raise answer
        return answer

    def close(self) -> None:
        self._process.kill()
        self._process.join()
        self._process.pipe.close()


def serve(partial: Path, older: Path | None, pipe: Connection) -> None:
    """Write the files that are asked for through the pipe, until it is closed."""
    os.dup2(2, 1)  # what a library prints belongs to no command's output
    try:
        decoder = Decoder(partial, older)
        while True:
            places = pipe.recv()
            try:
                answer: object = decoder.write(places)
            except (DataError, OSError) as error:
                answer = error
            pipe.send(answer)
    except (EOFError, ConnectionError, KeyboardInterrupt):
        os._exit(0)  # the process that asked is gone or ends


def row_bytes(kind: Kind) -> int:
    """Bytes of one sample or frame in the store."""
    return 2 * ARRAYS[kind][1]


def open_arrays(folder: Path, files: ExitStack, *, writable: bool) -> dict[Kind, int]:
    """Handles of the arrays of a store, closed with ``files``."""
    flags = os.O_RDWR | os.O_CREAT if writable else os.O_RDONLY
    handles = {kind: os.open(folder / name, flags, 0o644) for kind, (name, _) in ARRAYS.items()}
    for handle in handles.values():
        files.callback(os.close, handle)
    return handles


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


def _decoded(place: Place) -> tuple[memoryview, Written]:
    source, unusable = place.source, None
    signal, defects = read_signal(source.file)
    if source.file.split == "test" and (found := errors(defects)):  # only prediction needs it, and refuses it
        signal, unusable = nothing_of(source.file, place.rows), str(found[0])
    else:
        refuse(defects)
    rows = len(signal.values)
    if rows != place.rows:
        what = f"the file has {rows} rows, and had {place.rows} when its place was reserved"
        hint = "Run it again when nothing writes to the folder any more."
        raise DataError(what, where=source.file.path, hint=hint)
    return signal.buffer, Written(
        kind=source.file.kind,
        split=source.file.split,
        identifier=source.file.identifier,
        size=source.size,
        mtime_ns=source.mtime_ns,
        start=place.start,
        rows=rows,
        checksum=zlib.crc32(signal.buffer),
        clipped=signal.clipped,
        centre=tuple(signal.centre.tolist()),
        sfreq=source.file.sfreq,
        unusable=unusable,
    )


def _write_at(handle: int, content: memoryview, offset: int) -> None:
    """Write all of it; unlike a store through a mapping, a full disk is an error here and not a crash."""
    while content:
        count = os.pwrite(handle, content, offset)
        content, offset = content[count:], offset + count
