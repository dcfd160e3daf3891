"""Memory that each thread uses over and over; taking fresh memory costs more than what is written into it."""

from __future__ import annotations

import threading

import numpy as np
from numpy.typing import NDArray

_thread = threading.local()


def scratch(use: str, *shape: int) -> NDArray[np.float32]:
    """A float32 array for one use, with whatever is left in it, until this thread asks for it again."""
    kept: dict[str, NDArray[np.float32]] = _thread.__dict__
    size = int(np.prod(shape))
    if use not in kept or kept[use].size < size:
        kept[use] = np.empty(size, dtype=np.float32)
    return kept[use][:size].reshape(shape)
