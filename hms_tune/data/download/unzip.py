"""Unpacking a zip archive that nobody vouches for.

Everything in an archive is a claim: names may lead out of the folder, sizes may be lies, a few kilobytes may
hold a petabyte, entries may be links. All that can be judged from the archive's directory is judged before
the first byte is written; what is written is counted while it is.
"""

from __future__ import annotations

import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from threading import Lock
from typing import IO, BinaryIO

from hms_tune.data.files.threads import unordered
from hms_tune.errors import DownloadError
from hms_tune.machine.cores import available_cores
from hms_tune.machine.private_folder import private_folder
from hms_tune.machine.progress import ProgressCallback

_COPY_BYTES = 2**20
_END_OF_DIRECTORY = struct.Struct("<4s4H2LH")
_END_OF_DIRECTORY_64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR_64 = struct.Struct("<4sLQL")
_LONGEST_COMMENT = 2**16
_METHODS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}
_ENCRYPTED = 0x1
_DAMAGE = (zipfile.BadZipFile, NotImplementedError, EOFError, UnicodeDecodeError, zlib.error, struct.error)
_FORBIDDEN = frozenset('\\:*?"<>|')


class ArchiveError(DownloadError):
    """The archive itself is at fault: damaged, not safe to unpack, or of something else."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What an archive may hold at most. The real one holds 28,000 files of 26 GB in all.

    Parameters
    ----------
    files : number of entries
    bytes : size of all files unpacked
    directory_bytes : size of the archive's own directory, which is read into memory
    spare_bytes : room to leave free on the disk
    """

    files: int = 200_000
    bytes: int = 100 * 10**9
    directory_bytes: int = 64 * 2**20
    spare_bytes: int = 256 * 2**20


@dataclass(frozen=True, slots=True)
class _Entry:
    info: zipfile.ZipInfo
    path: PurePosixPath


def unpack(
    archive: Path, folder: Path, *, limits: Limits | None = None, progress: ProgressCallback | None = None
) -> None:
    """Unpack a competition's archive into a new folder.

    A single folder around everything, as some archivers add, is taken off. Files get the permissions of any
    new file, whatever the archive says.

    Parameters
    ----------
    archive : the zip file
    folder : must not exist; its parent must. After an error it holds a part, for the caller to remove
    limits : what to accept
    progress : told how many of how many files are unpacked

    Raises
    ------
    ArchiveError
        If the archive is damaged, holds anything but plain files under safe names, holds neither
        ``train.csv`` nor ``test.csv``, or is larger than the limits.
    DownloadError
        If the disk has no room for it, or fails.
    """
    limits = limits or Limits()
    try:
        with archive.open("rb") as stream:
            _refuse_huge_directory(archive, stream, limits)
        with zipfile.ZipFile(archive) as opened:
            entries = _without_wrapper(_judge(archive, opened.infolist(), limits))
            _refuse_other_content(archive, entries)
            _refuse_full_disk(folder, sum(entry.info.file_size for entry in entries), limits)
            _write_all(archive, opened, entries, folder, progress)
    except _DAMAGE as error:
        raise _damaged(archive, str(error)) from error
    except OSError as error:
        hint = "Check that the archive can be read, and that the disk is writable and has room"
        raise DownloadError(
            error.strerror or str(error), where=error.filename or folder, hint=hint
        ) from error


def directory_bytes(stream: BinaryIO) -> int | None:
    """How long the directory of an archive is, which the zip reader takes into memory; None: it has none."""
    size = stream.seek(0, os.SEEK_END)
    stream.seek(max(0, size - _END_OF_DIRECTORY.size - _LONGEST_COMMENT))
    tail = stream.read()
    at = tail.rfind(b"PK\x05\x06")
    if at < 0 or len(tail) - at < _END_OF_DIRECTORY.size:
        return None
    _, _, _, _, _, directory, _, _ = _END_OF_DIRECTORY.unpack_from(tail, at)
    if at >= _LOCATOR_64.size and tail[at - _LOCATOR_64.size :].startswith(b"PK\x06\x07"):
        _, _, offset, _ = _LOCATOR_64.unpack_from(tail, at - _LOCATOR_64.size)
        stream.seek(offset)
        record = _END_OF_DIRECTORY_64.unpack(stream.read(_END_OF_DIRECTORY_64.size))
        directory = max(directory if directory != 2**32 - 1 else 0, record[8])
    return int(directory)


def _refuse_huge_directory(archive: Path, stream: BinaryIO, limits: Limits) -> None:
    """Judge the directory before the zip reader takes it into memory."""
    directory = directory_bytes(stream)
    if directory is None:
        raise _damaged(archive, "it has no directory")
    if directory > limits.directory_bytes:
        raise _refused(archive, f"its directory takes {directory:,} bytes, more than any competition's")


def _judge(archive: Path, infos: Sequence[zipfile.ZipInfo], limits: Limits) -> list[_Entry]:
    """The files of the archive, in their order; the first entry that cannot be accepted is an error."""
    if len(infos) > limits.files:
        raise _refused(archive, f"it holds {len(infos):,} entries, more than {limits.files:,}")
    claimed = sum(info.file_size for info in infos)
    if claimed > limits.bytes:
        raise _refused(archive, f"it unpacks to {claimed:,} bytes, more than {limits.bytes:,}")
    entries: list[_Entry] = []
    seen: set[PurePosixPath] = set()
    for info in infos:
        if why := _unsafe(info):
            raise _refused(archive, f"its entry {_printable(info.orig_filename)} {why}")
        if info.is_dir():
            continue
        path = PurePosixPath(info.filename)
        folded = PurePosixPath(info.filename.casefold())  # the disk may not tell upper from lower case
        if folded in seen:
            raise _refused(archive, f"its entry {_printable(info.filename)} stands there twice")
        seen.add(folded)
        entries.append(_Entry(info, path))
    for entry in entries:
        if not seen.isdisjoint(PurePosixPath(str(entry.path).casefold()).parents):
            raise _refused(archive, f"its entry {_printable(entry.info.filename)} lies in a file")
    return entries


def _unsafe(info: zipfile.ZipInfo) -> str | None:
    """Why an entry is not accepted, or None."""
    name = info.orig_filename.removesuffix("/")
    mode = info.external_attr >> 16
    wanted = stat.S_IFDIR if info.is_dir() else stat.S_IFREG
    parts = name.split("/")
    too_long = len(os.fsencode(name)) > 1024 or any(len(os.fsencode(part)) > 255 for part in parts)
    reasons = (
        (stat.S_IFMT(mode) not in (0, wanted), "is a link or a device, not a plain file"),
        (not {"", ".", ".."}.isdisjoint(parts), "leads out of the folder"),
        (any(c < " " or c in _FORBIDDEN for c in name), "has a name that is no file name everywhere"),
        (too_long, "has a name that is too long"),
        (bool(info.flag_bits & _ENCRYPTED), "is encrypted"),
        (info.compress_type not in _METHODS, "is compressed in a way no competition's archive is"),
    )
    return next((why for unsafe, why in reasons if unsafe), None)


def _without_wrapper(entries: list[_Entry]) -> list[_Entry]:
    tops = {entry.path.parts[0] for entry in entries}
    if len(tops) != 1 or any(len(entry.path.parts) == 1 for entry in entries):
        return entries
    return [_Entry(entry.info, PurePosixPath(*entry.path.parts[1:])) for entry in entries]


def _refuse_other_content(archive: Path, entries: Sequence[_Entry]) -> None:
    if not {"train.csv", "test.csv"} & {str(entry.path) for entry in entries}:
        raise ArchiveError(
            "it is another archive: it holds neither train.csv nor test.csv",
            where=archive,
            hint="Name the archive of the whole competition, from its data page",
        )


def _refuse_full_disk(folder: Path, needed: int, limits: Limits) -> None:
    refuse_full_disk(folder.parent, needed + limits.spare_bytes, f"unpacked the files take {size(needed)}")


def refuse_full_disk(folder: Path, needed: int, why: str) -> None:
    """Raise unless the disk of a folder has room.

    Raises
    ------
    DownloadError
        Saying what is needed, and what is free.
    """
    free = os.statvfs(folder)
    free_bytes = free.f_bavail * free.f_frsize
    if free_bytes < needed:
        what = f"{why}, and the disk has {size(free_bytes)} free"
        raise DownloadError(what, where=folder, hint="Free some room, or name a folder on another disk")


def size(count: float) -> str:
    """Bytes as a person reads them: ``19.8 GB``."""
    for unit in ("bytes", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:,.1f} GB"


def _write_all(
    archive: Path,
    opened: zipfile.ZipFile,
    entries: Sequence[_Entry],
    folder: Path,
    progress: ProgressCallback | None,
) -> None:
    private_folder(folder)
    for parent in sorted({entry.path.parent for entry in entries}):
        (folder / parent).mkdir(parents=True, exist_ok=True)

    opening = Lock()

    def write(entry: _Entry) -> None:
        with _reading(opened, entry.info, opening) as source:
            _write(archive, source, entry, folder / entry.path)

    # inflating runs outside the interpreter lock
    for done, _ in enumerate(unordered(write, entries, jobs=min(8, available_cores())), start=1):
        if progress is not None:
            progress(done, len(entries))


@contextmanager
def _reading(opened: zipfile.ZipFile, info: zipfile.ZipInfo, lock: Lock) -> Iterator[IO[bytes]]:
    """One entry, for reading; the reader of the archive counts those that are open, and not thread-safely."""
    with lock:
        source = opened.open(info)
    try:
        yield source
    finally:
        with lock:
            source.close()


def _write(archive: Path, source: IO[bytes], entry: _Entry, path: Path) -> None:
    left = entry.info.file_size
    try:
        with path.open("xb") as target:
            while piece := source.read(_COPY_BYTES):
                left -= len(piece)
                if left < 0:
                    break
                target.write(piece)
    except _DAMAGE as error:
        raise _damaged(archive, f"{_printable(entry.info.filename)}: {error}") from error
    if left:
        raise _damaged(archive, f"{_printable(entry.info.filename)} is not as long as the archive says")


def _printable(name: str) -> str:
    return ascii(name if len(name) <= 100 else f"{name[:100]}…")


def _refused(archive: Path, why: str) -> ArchiveError:
    hint = "This is not the competition's archive as Kaggle has it; download it again"
    return ArchiveError(f"the archive is not safe to unpack: {why}", where=archive, hint=hint)


def _damaged(archive: Path, why: str) -> ArchiveError:
    hint = "Remove it and download it again"
    return ArchiveError(f"not a whole zip archive: {' '.join(why.split())}", where=archive, hint=hint)
