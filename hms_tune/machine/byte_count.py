"""Numbers of bytes, for people."""

from __future__ import annotations


def readable(nbytes: int) -> str:
    """A number of bytes: ``1.5 GiB``, ``12.0 MiB``."""
    if nbytes >= 2**30:
        return f"{nbytes / 2**30:.1f} GiB"
    return f"{nbytes / 2**20:.1f} MiB"
