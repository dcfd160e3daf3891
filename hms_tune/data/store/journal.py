"""What a store, finished or not, holds of each file; so that no file is decoded twice.

The journal of an unfinished store has a JSON line for each file that lies in its arrays. A line cut short by
a kill is ignored; a slice is believed only if its checksum still fits.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TextIO

from hms_tune.data.files.signal_file import SignalFile
from hms_tune.data.schema import SFREQ, Kind, Split

Key = tuple[Kind, Split, int]


@dataclass(frozen=True, slots=True)
class Source:
    """A file to be stored, and what tells whether it has changed.

    Parameters
    ----------
    file : which file
    size, mtime_ns : its bytes and time of change
    """

    file: SignalFile
    size: int
    mtime_ns: int

    @classmethod
    def of(cls, file: SignalFile) -> Source:
        """The file as it is now."""
        stat = file.path.stat()
        return cls(file, stat.st_size, stat.st_mtime_ns)

    @property
    def key(self) -> Key:
        """What tells the file from every other of its competition."""
        return self.file.kind, self.file.split, self.file.identifier


@dataclass(frozen=True, slots=True)
class Written:
    """A signal file that lies in an array.

    Parameters
    ----------
    kind, split, identifier : which file
    size, mtime_ns : bytes and time of change of the file it was made from
    start, rows : where its slice lies
    checksum : CRC-32 of its slice
    clipped : EEG samples beyond the float16 range
    centre : taken off each EEG channel, µV, exact as float32; empty for a spectrogram
    sfreq : at which the EEG file was taken to be sampled, Hz
    unusable : why NaN lies there instead of the file's signal, in a sentence
    """

    kind: Kind
    split: Split
    identifier: int
    size: int
    mtime_ns: int
    start: int
    rows: int
    checksum: int
    clipped: int
    centre: tuple[float, ...]
    sfreq: int = SFREQ
    unusable: str | None = None

    @property
    def key(self) -> Key:
        """What tells it from every other file."""
        return self.kind, self.split, self.identifier

    def is_of(self, source: Source) -> bool:
        """Whether it was made from this file, as the file is now."""
        mine = self.key, self.size, self.mtime_ns, self.sfreq
        return mine == (source.key, source.size, source.mtime_ns, source.file.sfreq)


_FIELDS = tuple(field.name for field in fields(Written))


def read_journal(path: Path) -> Iterator[Written]:
    """The files an earlier run finished, up to the first line that makes no sense."""
    if not path.is_file():
        return
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True):
        if not line.endswith("\n") or (written := _parse(line)) is None:
            return
        yield written


def append(stream: TextIO, written: Written) -> None:
    """Add one finished file; it survives the process from here on."""
    stream.write(json.dumps({name: getattr(written, name) for name in _FIELDS}) + "\n")
    stream.flush()


def _parse(line: str) -> Written | None:
    try:
        entry: dict[str, Any] = json.loads(line)
        return Written(**(entry | {"centre": tuple(entry["centre"])}))
    except (ValueError, TypeError, KeyError):
        return None
