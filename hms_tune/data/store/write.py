"""Signal files into the arrays of a store, one after another in a fixed order.

Scribes decode ahead; the arrays only ever grow. So an interrupted run leaves a sound beginning, and the next
one goes on where it ends.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TextIO

from hms_tune.data.files.defects import errors
from hms_tune.data.files.footers import length_defects
from hms_tune.data.schema import ARRAYS, Kind
from hms_tune.data.store.decoder import (
    Order,
    Scribe,
    ScribeProcess,
    Writer,
    open_array,
    read_slice,
    row_bytes,
)
from hms_tune.data.store.journal import Source, Written, append, read_journal
from hms_tune.data.store.reuse import Shelf

Progress = Callable[[int, int], None]
"""Told how many of how many files are done."""

DECODED_AHEAD = 96 * 2**20
"""Bytes of files being decoded or waiting for their turn; decoding takes up to seven times that in memory."""

_HANDED_OUT = 4
"""Parts of what may be ahead, for each scribe, of which one is handed over at once: each handing over costs
as much as decoding some 50 kB."""

_LEFT_OVER = 8
"""Parts of what is left, for each scribe, of which one is handed over at once: all shall end together."""

WORTH_PROCESSES = 128 * 2**20
"""Bytes of files from which on scribes get processes of their own.

Decoding many small columns holds the interpreter's lock for much of its time, so that threads wait for each
other; starting a process takes as long as decoding some 60 MiB.
"""

_WRITE_BACK_S = 1.0
"""Seconds between two requests to the disk to take what is written."""

JOURNAL = "journal.jsonl"


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
    with ExitStack() as files:
        arrays = {
            kind: open_array(partial / name, files, writable=True) for kind, (name, _) in ARRAYS.items()
        }
        done = _sound_beginning(partial / JOURNAL, sources, arrays)
        next_row = dict.fromkeys(ARRAYS, 0)
        for written in done:
            next_row[written.kind] = written.start + written.rows
        for kind, handle in arrays.items():
            os.ftruncate(handle, next_row[kind] * row_bytes(kind))
        stream = files.enter_context(_rewritten(partial / JOURNAL, done))
        line = _Line(sources[len(done) :], next_row, jobs)
        with _written_back(list(arrays.values())), _scribes(partial, shelf, line, jobs):
            for written in line.finished():
                append(stream, written)
                done.append(written)
                if progress is not None:
                    progress(len(done), len(sources))
        for handle in arrays.values():
            os.fsync(handle)
    return done


class _Line:
    """Who decodes which files, and where they go: in order, so far ahead as memory allows.

    Parameters
    ----------
    sources : the files, in the order in which they shall lie
    next_row : the row of each array at which the first of them begins
    jobs : number of scribes
    """

    def __init__(self, sources: Sequence[Source], next_row: Mapping[Kind, int], jobs: int) -> None:
        self.sources = sources
        self._jobs = jobs
        self._left = sum(source.size for source in sources)  # bytes of files not handed out
        self._next_row = dict(next_row)
        self._changed = threading.Condition()
        self._n_begun = 0  # files handed out
        self._ahead = 0  # bytes of files handed out and not yet written
        self._decoded: dict[int, tuple[Writer, Written]] = {}  # files whose place is not known yet
        self._n_placed = 0
        self._placed: dict[Writer, dict[int, Written]] = {}  # places of which the scribe does not know yet
        self._written: dict[int, Written] = {}
        self._error: BaseException | None = None
        self._closed = False

    def work(self, scribe: Writer) -> None:
        """Keep one scribe busy until all files are written; called in a thread of its own."""
        try:
            while (order := self._next_order(scribe)) is not None:
                files, places = order
                starts = {number: written.start for number, written in places.items()}
                told = scribe.carry_out(Order(starts, files))
                self._record(scribe, places, told)
        except BaseException as error:  # noqa: BLE001 - raised again by whoever takes the files
            with self._changed:
                self._error = self._error or error
                self._changed.notify_all()

    def finished(self) -> Iterator[Written]:
        """Every file that lies in its array, in order, as soon as all before it do."""
        number = 0
        while number < len(self.sources):
            with self._changed:
                while number not in self._written:
                    if self._error is not None:
                        raise self._error
                    self._changed.wait()
                ready = []
                while number in self._written:
                    ready.append(self._written.pop(number))
                    number += 1
            yield from ready

    def close(self) -> None:
        """Hand out nothing more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _next_order(self, scribe: Writer) -> tuple[dict[int, Source], dict[int, Written]] | None:
        with self._changed:
            while not (self._closed or self._error):
                files, places = self._next_files(), self._placed.pop(scribe, {})
                if files or places:
                    return files, places
                if self._n_placed == len(self.sources):
                    return None
                self._changed.wait()
        return None

    def _next_files(self) -> dict[int, Source]:
        files: dict[int, Source] = {}
        size, at_once = 0, min(DECODED_AHEAD // _HANDED_OUT, self._left // _LEFT_OVER) // self._jobs
        for number in range(self._n_begun, len(self.sources)):
            more = self.sources[number].size
            too_much = size + more > at_once if files else self._ahead + more > DECODED_AHEAD
            if self._ahead and too_much:
                break
            files[number] = self.sources[number]
            size += more
            self._ahead += more
        self._n_begun += len(files)
        self._left -= size
        return files

    def _record(self, scribe: Writer, places: Mapping[int, Written], told: Mapping[int, Written]) -> None:
        with self._changed:
            self._written.update(places)
            self._ahead -= sum(self.sources[number].size for number in places)
            self._decoded.update((number, (scribe, written)) for number, written in told.items())
            while self._n_placed in self._decoded:
                owner, written = self._decoded.pop(self._n_placed)
                place = replace(written, start=self._next_row[written.kind])
                self._next_row[written.kind] += written.rows
                self._placed.setdefault(owner, {})[self._n_placed] = place
                self._n_placed += 1
            self._changed.notify_all()


@contextmanager
def _scribes(partial: Path, shelf: Shelf | None, line: _Line, jobs: int) -> Iterator[None]:
    """Scribes at work on a line of files, until the block ends."""
    size = sum(source.size for source in line.sources)
    kind = ScribeProcess if jobs > 1 and size >= WORTH_PROCESSES else Scribe
    with ExitStack() as stack:
        for _ in range(min(jobs, len(line.sources))):
            scribe = kind(partial, shelf)
            stack.callback(scribe.close)
            thread = threading.Thread(target=line.work, args=(scribe,), daemon=True)
            thread.start()
            stack.callback(thread.join)
        stack.callback(line.close)
        yield


@contextmanager
def _written_back(handles: Sequence[int]) -> Iterator[None]:
    """The disk takes what is written while more is decoded, so that the end has little to wait for.

    An error of the disk is raised at the end of the block: it is told once, and not when all is synchronized.
    """
    over = threading.Event()
    failed: list[OSError] = []

    def write_back() -> None:
        try:
            while not over.wait(_WRITE_BACK_S):
                for handle in handles:
                    os.fdatasync(handle)
        except OSError as error:
            failed.append(error)

    thread = threading.Thread(target=write_back, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
    if failed:
        raise failed[0]


def _sound_beginning(journal: Path, sources: Sequence[Source], arrays: Mapping[Kind, int]) -> list[Written]:
    """What an earlier run wrote of these files, as far as files and slices are still the same."""
    sound: list[Written] = []
    next_row = dict.fromkeys(ARRAYS, 0)
    for source, written in zip(sources, read_journal(journal), strict=False):
        if not written.is_of(source) or written.start != next_row[written.kind]:
            break
        if read_slice(arrays[written.kind], written) is None or errors(
            length_defects(source.file, written.rows)
        ):
            break
        next_row[written.kind] += written.rows
        sound.append(written)
    return sound


def _rewritten(journal: Path, done: Sequence[Written]) -> TextIO:
    """The journal without what is no longer sound, open for more."""
    fresh = journal.with_name(journal.name + ".fresh")
    stream = fresh.open("w", encoding="utf-8")
    for written in done:
        append(stream, written)
    fresh.replace(journal)
    return stream
