"""Files that somebody else made: opened only if they are files."""

from __future__ import annotations

import errno
import io
import os
import stat
from pathlib import Path


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
