"""The file that holds a study: what may stand in it, and how it is read.

Everything in it is a claim of whoever sent it. Names, sizes and forms are judged before anything is unpacked.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hms_tune.config.study_file import STUDY_NAME
from hms_tune.data.download.unzip import directory_bytes
from hms_tune.database.queries import archive
from hms_tune.errors import UsageError, first_line
from hms_tune.machine.regular_file import open_regular

FORMAT = 1
HEAD = "study.json"
ARTIFACTS = "artifacts/"
ARTIFACT = re.compile(
    r"artifacts/(trial-\d{1,9}/(?:fold-\d{1,9}-)?attempt-\d{1,18}/checkpoint-\d{1,9}(\.pt)"
    r"|out-of-fold/trial-\d{1,9}\.npz)"
)
"""Out-of-fold predictions, which blends are chosen by, go with the checkpoints."""

_ROWS = {f"rows/{table.name}.jsonl" for table in archive.TABLES}
_JSON_IN_TEXT = ("value_json", "distribution_json")
_MOST_ENTRIES = 200_000
_MOST_DIRECTORY_BYTES = 1 << 26
_MOST_HEAD_BYTES = 1 << 16
_MOST_LINE_BYTES = 1 << 26
"""Of a row: one with predictions takes a few MB."""
_MOST_ROWS_BYTES = 1 << 32
"""Of all rows. Those of ten thousand trials take a few hundred MB."""
_MOST_PACKED = 200
"""How many times smaller rows become at most, beyond the first megabyte. Usual are 10 to 20."""
_DEEPEST = 50
_ENCRYPTED = 0x1
_DAMAGE = (
    *(zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError),
    *(LookupError, ValueError, TypeError, AttributeError, RuntimeError, OverflowError, MemoryError),
)
"""What reading a file raises that is no archive, or one of another kind, or a damaged one."""


def write_it(file: Path) -> str:
    """What writes such a file."""
    return f"Write it with hms-tune study save STUDY {shlex.quote(str(file))}"


@dataclass(frozen=True, slots=True)
class Head:
    """What the file says of itself."""

    study: str
    revision: str
    hms_tune: str


@dataclass(frozen=True, slots=True)
class ArchiveFile:
    """An open file with a study. Made by :func:`opened`."""

    path: Path
    head: Head
    artifacts: tuple[zipfile.ZipInfo, ...]
    content: zipfile.ZipFile

    def rows(self, table: str) -> Iterator[archive.Row]:
        """The rows of a table, each a dictionary."""
        with _told(self.path, f"rows/{table}.jsonl"), self.content.open(f"rows/{table}.jsonl") as lines:
            while line := lines.readline(_MOST_LINE_BYTES + 1):
                if len(line) > _MOST_LINE_BYTES:
                    raise ValueError("a row is too long")
                yield _row(line)

    def unpack(self, artifact: zipfile.ZipInfo, to: Path) -> None:
        """Write an artifact to a file."""
        with _told(self.path, artifact.filename):
            source = self.content.open(artifact)
        with source, to.open("wb") as target:
            while True:
                with _told(self.path, artifact.filename):
                    piece = source.read(1 << 20)
                if not piece:
                    return
                target.write(piece)


@contextmanager
def opened(file: Path) -> Iterator[ArchiveFile]:
    """Open a file whose every entry has its place, and is not larger than it can be.

    Raises
    ------
    UsageError
        If it is none.
    """
    with _told(file):
        stream = open_regular(file)
    with stream:
        with _told(file):
            if (directory_bytes(stream) or 0) > _MOST_DIRECTORY_BYTES:
                raise ValueError("its directory is too long")
            size = stream.seek(0, os.SEEK_END)
            content = zipfile.ZipFile(stream)
        with content:
            with _told(file):
                _judge(content.infolist(), size)
                head = _head(content.read(HEAD))
            artifacts = tuple(each for each in content.infolist() if ARTIFACT.fullmatch(each.filename))
            yield ArchiveFile(file, head, artifacts, content)


def _judge(entries: list[zipfile.ZipInfo], size: int) -> None:
    """Refuse what no archive of ours has, by its directory alone."""
    if len(entries) > _MOST_ENTRIES:
        raise ValueError(f"it has {len(entries):,} entries, more than {_MOST_ENTRIES:,}")
    if len({entry.filename for entry in entries}) < len(entries):
        raise ValueError("an entry stands there twice")
    for entry in entries:
        name = ascii(entry.filename[:100])
        if entry.flag_bits & _ENCRYPTED:
            raise ValueError(f"{name} is encrypted")
        if ARTIFACT.fullmatch(entry.filename):
            if entry.compress_type != zipfile.ZIP_STORED:
                raise ValueError(f"{name} is compressed")
        elif entry.filename not in {HEAD, *_ROWS}:
            raise ValueError(f"{name} has no place in it")
        elif entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError(f"{name} is compressed in another way")
        elif entry.file_size > _MOST_PACKED * entry.compress_size + (1 << 20):
            raise ValueError(f"{name} unpacks to {entry.file_size:,} bytes")
    stored = sum(entry.file_size for entry in entries if entry.compress_type == zipfile.ZIP_STORED)
    rows = sum(entry.file_size for entry in entries if entry.filename in _ROWS)
    if stored > size or rows > _MOST_ROWS_BYTES:
        raise ValueError(f"it unpacks to {max(stored, rows):,} bytes")
    if {entry.filename: entry.file_size for entry in entries}[HEAD] > _MOST_HEAD_BYTES:
        raise ValueError(f"{HEAD} is too long")


def _head(text: bytes) -> Head:
    told = json.loads(text)
    if told["format"] != FORMAT or not STUDY_NAME.fullmatch(told["study"]):
        raise ValueError("it holds no study that this version knows")
    texts = [told[name] for name in ("study", "revision", "hms_tune")]
    if not all(isinstance(each, str) and len(each) < 100 for each in texts):
        raise ValueError(f"{HEAD} says something else than it should")
    return Head(*texts)


def _row(line: bytes) -> archive.Row:
    row: archive.Row = json.loads(line)
    if not isinstance(row, dict):
        raise TypeError("a row is no JSON object")
    _check_depth(row)
    for key in _JSON_IN_TEXT:
        if key in row:
            _check_depth(json.loads(row[key]))
    return row


def _check_depth(value: Any) -> None:
    """Refuse what is nested so deeply that a program fails which reads it from within."""
    level = [value]
    for _ in range(_DEEPEST):
        level = [
            inner
            for each in level
            if isinstance(each, dict | list)
            for inner in (each.values() if isinstance(each, dict) else each)
        ]
        if not level:
            return
    raise ValueError(f"a row is nested deeper than {_DEEPEST} levels")


@contextmanager
def _told(file: Path, part: str | None = None) -> Iterator[None]:
    """Turn what reading raises into a sentence that names the file."""
    try:
        yield
    except FileNotFoundError:
        raise UsageError("there is no such file", where=file, hint=write_it(file)) from None
    except _DAMAGE as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        told = f"{part}: {reason}" if part else reason
        raise UsageError(f"this is no whole study ({told})", where=file, hint=write_it(file)) from error
