"""Signal files into the arrays of a store, several at once, each into the place that is kept for it.

The journal has a line for each file that is written. So an interrupted run loses only the files that it was
writing, and the next one goes on with what is left.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TextIO

from hms_tune.data.files.threads import unordered
from hms_tune.data.schema import Kind
from hms_tune.data.store.decoder import decoders, open_arrays, read_slice, row_bytes
from hms_tune.data.store.journal import Key, Written, append, read_journal
from hms_tune.data.store.places import Place, rows_of_arrays
from hms_tune.machine.progress import ProgressCallback

_AT_ONCE = 8 * 2**20
"""Bytes of files that are handed to a decoder at once.

Each handing over costs as much as decoding some 50 kB, and a killed run loses what it was decoding.
"""

_LEFT_OVER = 8
"""Parts of what is left, for each decoder, of which one is handed over at once: all shall end together."""

WORTH_PROCESSES = 128 * 2**20
"""Bytes of files from which on decoders get processes of their own.

Decoding many small columns holds the interpreter's lock for much of its time, so that threads wait for each
other; starting a process takes as long as decoding some 60 MiB.
"""

_SYNC_S = 1.0
"""Seconds between two requests to the disk to take what is written: then the end has little to wait for."""

JOURNAL = "journal.jsonl"


def write_signals(
    partial: Path,
    places: Sequence[Place],
    older: Path | None,
    *,
    jobs: int,
    progress: ProgressCallback | None = None,
) -> list[Written]:
    """Write every file that an earlier run has not left sound.

    Parameters
    ----------
    partial : folder of the unfinished store
    places : the files and their places, in order
    older : folder of an older store, from which unchanged files are copied instead of decoded
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
        arrays = open_arrays(partial, files, writable=True)
        done = _sound_slices(partial / JOURNAL, places, arrays)
        for kind, rows in rows_of_arrays(places).items():
            os.ftruncate(arrays[kind], rows * row_bytes(kind))
        journal = files.enter_context(_rewritten(partial / JOURNAL, done))
        synced = time.monotonic()
        for written in _write_all(partial, [p for p in places if p.source.key not in done], older, jobs):
            append(journal, written)
            done[written.key] = written
            if progress is not None:
                progress(len(done), len(places))
            if time.monotonic() - synced >= _SYNC_S:
                for handle in arrays.values():
                    os.fdatasync(handle)
                synced = time.monotonic()
        for handle in arrays.values():
            os.fsync(handle)
    return [done[place.source.key] for place in places]


def _write_all(partial: Path, places: Sequence[Place], older: Path | None, jobs: int) -> Iterator[Written]:
    n_decoders = min(jobs, len(places))
    in_processes = jobs > 1 and _size(places) >= WORTH_PROCESSES
    with decoders(partial, older, n_decoders, in_processes=in_processes) as write:
        for _, written in unordered(write, _portions(places, jobs), jobs=max(1, n_decoders)):
            yield from written


def _portions(places: Sequence[Place], jobs: int) -> Iterator[list[Place]]:
    """What is handed over at once: files next to each other, towards the end less and less."""
    left = _size(places)
    portion, size = list[Place](), 0
    for place in places:
        portion.append(place)
        size += place.source.size
        if size >= min(_AT_ONCE, left // (_LEFT_OVER * jobs)):
            yield portion
            left -= size
            portion, size = [], 0
    if portion:
        yield portion


def _size(places: Sequence[Place]) -> int:
    return sum(place.source.size for place in places)


def _sound_slices(journal: Path, places: Sequence[Place], arrays: Mapping[Kind, int]) -> dict[Key, Written]:
    """What an earlier run wrote of these files, as far as files, places and slices are still the same."""
    expected = {(place.source.key, place.start, place.rows): place.source for place in places}
    sound = {}
    for written in read_journal(journal):
        source = expected.get((written.key, written.start, written.rows))
        if source is None or not written.is_of(source):
            continue
        if read_slice(arrays[written.kind], written) is not None:
            sound[written.key] = written
    return sound


def _rewritten(journal: Path, done: Mapping[Key, Written]) -> TextIO:
    """The journal without what is no longer sound, open for more."""
    fresh = journal.with_name(journal.name + ".fresh")
    stream = fresh.open("w", encoding="utf-8")
    for written in done.values():
        append(stream, written)
    fresh.replace(journal)
    return stream
