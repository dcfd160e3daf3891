"""Signal files into the arrays of a store, one after another in a fixed order.

Threads decode ahead; the arrays only ever grow. So an interrupted run leaves a sound beginning, and the next
one goes on where it ends.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TextIO

from hms_tune.data.defects import errors, refuse
from hms_tune.data.encoding import Signal
from hms_tune.data.footers import length_defects
from hms_tune.data.journal import Source, Written, append, read_journal
from hms_tune.data.parallel import ordered
from hms_tune.data.shelf import Shelf
from hms_tune.data.signal_files import read_signal
from hms_tune.data.store import ARRAYS

Progress = Callable[[int, int], None]
"""Told how many of how many files are done."""

DECODED_AHEAD = 96 * 2**20
"""Bytes of files being decoded or waiting for their turn; decoding takes up to seven times that in memory."""

JOURNAL = "journal.jsonl"


@dataclass(frozen=True, slots=True)
class _Slice:
    """The content of one file on its way into its array."""

    content: memoryview
    written: Written


def write_signals(
    partial: Path,
    sources: Sequence[Source],
    shelf: Shelf | None,
    *,
    jobs: int,
    progress: Progress | None = None,
) -> list[Written]:
    """Write every file, beginning with what an earlier run left sound.

    Parameters
    ----------
    partial : folder of the unfinished store
    sources : the files, in the order in which they shall lie
    shelf : an older store, from which unchanged files are copied instead of decoded
    jobs : files decoded at once
    progress : told how many of how many files are done

    Returns
    -------
    One entry for each file, in their order

    Raises
    ------
    DataError
        At the first file with a defect.
    OSError
        If the disk is full or fails.
    """
    with ExitStack() as stack:
        arrays = {kind: _open(partial / name, stack) for kind, (name, _) in ARRAYS.items()}
        shelves = {
            kind: _open(shelf.folder / name, stack, writable=False)
            for kind, (name, _) in ARRAYS.items()
            if shelf is not None
        }
        done = _sound_beginning(partial / JOURNAL, sources, arrays)
        next_row = dict.fromkeys(ARRAYS, 0)
        for written in done:
            next_row[written.kind] = written.start + written.rows
        for kind, handle in arrays.items():
            os.ftruncate(handle, next_row[kind] * _row_bytes(kind))
        stream = stack.enter_context(_rewritten(partial / JOURNAL, done))

        def fetch(source: Source) -> _Slice:
            if shelf is not None and shelf.has(source):
                shelved = _copy(shelves[source.file.kind], source, shelf.written[source.key])
                if shelved is not None:
                    return shelved
            return _decode(source)

        slices = ordered(
            fetch, sources[len(done) :], jobs=jobs, cost=lambda source: source.size, budget=DECODED_AHEAD
        )
        for piece in slices:
            written = replace(piece.written, start=next_row[piece.written.kind])
            _write_at(arrays[written.kind], piece.content, written.start * _row_bytes(written.kind))
            append(stream, written)
            next_row[written.kind] += written.rows
            done.append(written)
            if progress is not None:
                progress(len(done), len(sources))
        for handle in arrays.values():
            os.fsync(handle)
    return done


def _sound_beginning(journal: Path, sources: Sequence[Source], arrays: Mapping[str, int]) -> list[Written]:
    """What an earlier run wrote of these files, as far as files and slices are still the same."""
    sound: list[Written] = []
    next_row = dict.fromkeys(ARRAYS, 0)
    for source, written in zip(sources, read_journal(journal), strict=False):
        if not written.is_of(source) or written.start != next_row[written.kind]:
            break
        if _read_slice(arrays[written.kind], written) is None or errors(
            length_defects(source.file, written.rows)
        ):
            break
        next_row[written.kind] += written.rows
        sound.append(written)
    return sound


def _copy(handle: int, source: Source, written: Written) -> _Slice | None:
    """An unchanged file's slice of an older store; None if it is damaged."""
    refuse(length_defects(source.file, written.rows))  # its labels may have changed
    content = _read_slice(handle, written)
    return None if content is None else _Slice(content, written)


def _decode(source: Source) -> _Slice:
    signal, defects = read_signal(source.file)
    refuse(defects)
    return _Slice(signal.buffer, _entry(source, signal))


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


def _row_bytes(kind: str) -> int:
    return 2 * ARRAYS[kind][1]


def _open(path: Path, stack: ExitStack, *, writable: bool = True) -> int:
    handle = os.open(path, os.O_RDWR | os.O_CREAT if writable else os.O_RDONLY, 0o644)
    stack.callback(os.close, handle)
    return handle


def _read_slice(handle: int, written: Written) -> memoryview | None:
    """The bytes of a slice, or None if they are not what was written."""
    wanted = written.rows * _row_bytes(written.kind)
    content = bytearray(wanted)
    view, offset = memoryview(content), written.start * _row_bytes(written.kind)
    while view:
        count = os.preadv(handle, [view], offset)
        if count == 0:
            return None
        view, offset = view[count:], offset + count
    return memoryview(content) if zlib.crc32(content) == written.checksum else None


def _write_at(handle: int, content: memoryview, offset: int) -> None:
    """Write all of it; unlike a store through a mapping, a full disk is an error here and not a crash."""
    while content:
        count = os.pwrite(handle, content, offset)
        content, offset = content[count:], offset + count


def _rewritten(journal: Path, done: Sequence[Written]) -> TextIO:
    """The journal without what is no longer sound, open for more."""
    fresh = journal.with_name(journal.name + ".fresh")
    stream = fresh.open("w", encoding="utf-8")
    for written in done:
        append(stream, written)
    fresh.replace(journal)
    return stream
