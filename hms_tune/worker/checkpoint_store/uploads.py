"""Checkpoints on their way to the fleet's store, off the training thread."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

from hms_tune.errors import ArtifactError
from hms_tune.machine.background import BackgroundQueue
from hms_tune.worker.checkpoint_store.files import ObjectStore

_logger = logging.getLogger(__name__)

KEPT = 2
"""How many checkpoints of an attempt stay in the store: the newest and one to fall back on."""

AGAIN_S = 5.0
"""How long until an upload that failed, or whose lease was in doubt, is tried again, s."""


class Uploader:
    """Uploads each checkpoint of one attempt to the store; a newer one replaces one that still waits.

    If the store is full or away, training goes on, stored checkpoints stay, and the upload is tried again.

    Parameters
    ----------
    prefix : where the attempt's keys begin; its number is in it, so that no other attempt writes there
    allowed : whether the attempt's lease is certain; while it is not, nothing is uploaded
    """

    def __init__(self, store: ObjectStore, prefix: str, *, allowed: Callable[[], bool]) -> None:
        self._store = store
        self._prefix = prefix
        self._allowed = allowed
        self._warned = False
        self._stored: list[str] = []
        self._queue: BackgroundQueue[Path] = BackgroundQueue(self._upload, name="uploads")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._queue.close(AGAIN_S, drop=True)

    def offer(self, path: Path) -> None:
        """Upload a checkpoint as soon as that is possible."""
        self._queue.put(path, key="newest")

    def flush(self, *, most_s: float) -> bool:
        """Wait until the newest checkpoint is in the store; returns whether it is."""
        return self._queue.join(most_s)

    def _upload(self, path: Path) -> float | None:
        """Store a checkpoint; where that cannot be now, after how many seconds to try again."""
        if not self._allowed():
            return AGAIN_S
        key = f"{self._prefix}{path.name}"
        started = time.monotonic()
        try:
            self._store.put(key, path)
            self._stored.append(key)
            self._store.remove(self._stored[:-KEPT])
            del self._stored[:-KEPT]
        except FileNotFoundError:  # training has written two newer ones meanwhile
            return None
        except ArtifactError as error:
            if not self._warned:
                _logger.warning("%s; the trial goes on, the checkpoint is tried again", error)
            self._warned = True
            return AGAIN_S
        _logger.debug("%s stored in %.2f s", key, time.monotonic() - started)
        self._warned = False
        return None
