"""Files at places that somebody else chose: read only if they are files, written as a whole or not at all."""

from __future__ import annotations

import errno
import io
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hms_tune.errors import HmsTuneError, UsageError


def open_regular(path: str | Path, *, folder: int | None = None, links: bool = True) -> io.BufferedReader:
    """Open a regular file for reading. A pipe would be waited for, a device could have no end.

    Parameters
    ----------
    folder : the open folder that the path begins in
    links : whether a link may lead to the file

    Raises
    ------
    OSError
        If it cannot be opened, or is no regular file.
    """
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (0 if links else os.O_NOFOLLOW)
    handle = os.open(path, flags, dir_fd=folder)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(errno.EINVAL, "it is no regular file", str(path))
    return os.fdopen(handle, "rb")


def read_regular(path: Path, *, most: int) -> bytes:
    """All bytes of a regular file.

    Parameters
    ----------
    most : bytes; nothing of a longer file is returned

    Raises
    ------
    OSError
        If it cannot be read, is no regular file, or is longer.
    """
    with open_regular(path) as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise OSError(errno.EFBIG, f"it has more than {most:,} bytes", str(path))
    return content


def check_writable(path: Path, *, named_by: str) -> None:
    """Refuse, before any work, a place where a file cannot be written.

    Parameters
    ----------
    named_by : the option or argument, for the error

    Raises
    ------
    UsageError
        If it is a folder, or its folder is missing or closed.
    """
    if path.is_dir():
        raise UsageError("is a folder", where=path, hint=f"Name a file with {named_by}")
    if not path.parent.is_dir():
        hint = f"Create it, or choose another {named_by}"
        raise UsageError("there is no such folder", where=path.parent, hint=hint)
    # A regular file is replaced by a new one beside it; anything else is written into.
    written = path if _is_special(path) else path.resolve().parent
    if not os.access(written, os.W_OK):
        raise UsageError("cannot be written to", where=written, hint=f"Choose another {named_by}")


@contextmanager
def appearing(path: Path, *, named_by: str) -> Iterator[Path]:
    """Where the block writes a file of the same name; at its end the file is at ``path``.

    A device or a pipe gets its content. A link stays one, and the file is where it leads.

    Raises
    ------
    UsageError
        As :func:`check_writable`.
    HmsTuneError
        If the disk is full or fails; what was at ``path`` is still there.
    """
    check_writable(path, named_by=named_by)
    special = _is_special(path)
    target = path if special else path.resolve()
    try:
        # A folder of its own: no link of somebody else lies in it, and the file's own name is free in it,
        # which compressed files record.
        with tempfile.TemporaryDirectory(
            prefix=".hms-tune-", dir=None if special else target.parent
        ) as folder:
            written = Path(folder, target.name)
            yield written
            if special:
                with written.open("rb") as content, target.open("wb") as stream:
                    shutil.copyfileobj(content, stream)
            else:
                written.replace(target)
    except OSError as error:
        hint = f"Free some room, or choose another {named_by}"
        raise HmsTuneError(f"cannot be written: {error.strerror or error}", where=path, hint=hint) from error


def _is_special(path: Path) -> bool:
    """Whether it is there and is a device or a pipe."""
    return path.exists() and not path.is_file()
