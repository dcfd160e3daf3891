"""Signal files into their places in the arrays of a store."""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from hms_tune.data.defects import refuse
from hms_tune.data.journal import Journal, Written, append, key_of
from hms_tune.data.parallel import unordered
from hms_tune.data.signal_files import SignalFile, read_signal
from hms_tune.data.store import ARRAYS
from hms_tune.errors import DataError

Progress = Callable[[int, int], None]
"""Told how many of how many files are done."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where in its array a file goes: ``rows`` rows from row ``start``."""

    file: SignalFile
    start: int
    rows: int

    @property
    def bytes(self) -> int:
        """Size of its slice."""
        return self.rows * ARRAYS[self.file.kind][1] * 2

    @property
    def offset(self) -> int:
        """First byte of its slice."""
        return self.start * ARRAYS[self.file.kind][1] * 2


def write_signals(
    partial: Path, places: Sequence[Place], journal: Journal, *, jobs: int, progress: Progress | None
) -> None:
    """Write every file that the journal does not have, or no longer rightly has, and enter it there.

    Parameters
    ----------
    partial : folder of the unfinished store; its arrays get their full size first
    places : where each file goes
    journal : what an earlier run finished; what this run finishes is added
    jobs : files decoded at once
    progress : told how many of how many files are done

    Raises
    ------
    DataError
        At the first file with a defect.
    OSError
        If the disk is full or fails.
    """
    handles = {
        kind: os.open(partial / name, os.O_RDWR | os.O_CREAT, 0o644) for kind, (name, _) in ARRAYS.items()
    }
    try:
        for kind, handle in handles.items():
            os.ftruncate(handle, sum(place.bytes for place in places if place.file.kind == kind))
        before = dict(journal.finished)

        def store(place: Place) -> Written:
            return _store_file(handles[place.file.kind], place, before.get(key_of(place.file)))

        with journal.appending() as stream:
            for done, (_, written) in enumerate(unordered(store, places, jobs=jobs), start=1):
                if before.get(written.key) != written:
                    journal.finished[written.key] = written
                    append(stream, written)
                if progress is not None:
                    progress(done, len(places))
        for handle in handles.values():
            os.fsync(handle)
    finally:
        for handle in handles.values():
            os.close(handle)


def _store_file(handle: int, place: Place, before: Written | None) -> Written:
    """Decode one file into its slice, unless an earlier run did and the slice is still sound."""
    if before is not None and zlib.crc32(os.pread(handle, place.bytes, place.offset)) == before.checksum:
        return before
    signal, defects = read_signal(place.file)
    refuse(defects)
    if len(signal.values) != place.rows:
        what = f"the file changed while it was read: {len(signal.values)} rows instead of {place.rows}"
        raise DataError(what, where=place.file.path, mend="Run `hms-tune data prepare` again.")
    _write_at(handle, signal.buffer, place.offset)
    return Written(
        kind=place.file.kind,
        split=place.file.split,
        identifier=place.file.identifier,
        checksum=zlib.crc32(signal.buffer),
        clipped=signal.clipped,
        centre=tuple(signal.centre.tolist()),
    )


def _write_at(handle: int, content: memoryview, offset: int) -> None:
    """Write all of it; unlike a store through a mapping, a full disk is an error here and not a crash."""
    while content:
        count = os.pwrite(handle, content, offset)
        content, offset = content[count:], offset + count
