"""What an unfinished store already holds, so that an interrupted preparation goes on.

One JSON line for each finished file, after a first line that names the source. A line cut short by a kill is
ignored; a finished slice is believed only if its checksum still fits.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TextIO

from hms_tune.data.signal_files import SignalFile

Key = tuple[str, str, int]


@dataclass(frozen=True, slots=True)
class Written:
    """A signal file that lies in the store.

    Parameters
    ----------
    kind, split, identifier : which file
    checksum : CRC-32 of its slice
    clipped : EEG samples beyond the float16 range
    centre : the median taken off each EEG channel, µV, exact as float32
    """

    kind: str
    split: str
    identifier: int
    checksum: int
    clipped: int
    centre: tuple[float, ...]

    @property
    def key(self) -> Key:
        """What tells it from every other file."""
        return self.kind, self.split, self.identifier


def key_of(file: SignalFile) -> Key:
    """The key a file has once it is written."""
    return file.kind, file.split, file.identifier


@dataclass(slots=True)
class Journal:
    """The finished files of one preparation."""

    path: Path
    source: str
    finished: dict[Key, Written] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path, source: str) -> Journal | None:
        """The journal an earlier run left, or None when there is none or it is of another source."""
        if not path.is_file():
            return None
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
        if not lines or lines[0] != _first_line(source):
            return None
        journal = cls(path, source)
        for line in lines[1:]:
            if (written := _parse(line)) is not None:
                journal.finished[written.key] = written
        return journal

    @contextmanager
    def appending(self) -> Iterator[TextIO]:
        """Write the journal anew without torn lines, and leave it open for :func:`append`."""
        fresh = self.path.with_name(self.path.name + ".fresh")
        with fresh.open("w", encoding="utf-8") as stream:
            stream.write(_first_line(self.source))
            for written in self.finished.values():
                append(stream, written)
            stream.flush()
            fresh.replace(self.path)
            yield stream


def append(stream: TextIO, written: Written) -> None:
    """Add one finished file; it survives the process from here on."""
    stream.write(json.dumps(asdict(written)) + "\n")
    stream.flush()


def _first_line(source: str) -> str:
    return json.dumps({"source": source}) + "\n"


def _parse(line: str) -> Written | None:
    try:
        fields = json.loads(line)
        return Written(**(fields | {"centre": tuple(fields["centre"])}))
    except (ValueError, TypeError, KeyError):
        return None
