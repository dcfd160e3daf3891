"""Checkpoints on their way to the fleet's store, off the training thread."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

from hms_tune.errors import ArtifactError
from hms_tune.worker.checkpoint_store.files import ObjectStore

_logger = logging.getLogger(__name__)

KEPT = 2
"""How many checkpoints of an attempt stay in the store: the newest and one to fall back on."""

AGAIN_S = 5.0
"""How long until an upload that failed, or whose lease was in doubt, is tried again, s."""


class Uploader:
    """Takes each checkpoint of one attempt to the store; a newer one replaces one that still waits.

    A store that is full or away costs nothing but safety: training goes on, what is there stays, and the
    next checkpoint is tried again.

    Parameters
    ----------
    prefix : where the attempt's keys begin; its number is in it, so that no other attempt writes there
    allowed : whether the attempt's lease is certain; while it is not, nothing is uploaded
    """

    def __init__(self, store: ObjectStore, prefix: str, *, allowed: Callable[[], bool]) -> None:
        self._store = store
        self._prefix = prefix
        self._allowed = allowed
        self._waiting: Path | None = None
        self._busy = False
        self._closing = False
        self._warned = False
        self._stored: list[str] = []
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="uploads", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join(timeout=AGAIN_S)

    def offer(self, path: Path) -> None:
        """Upload a checkpoint as soon as that is possible."""
        with self._changed:
            self._waiting = path
            self._changed.notify_all()

    def flush(self, *, most_s: float) -> bool:
        """Wait until the newest checkpoint is in the store; whether it is."""
        with self._changed:
            return self._changed.wait_for(lambda: self._waiting is None and not self._busy, timeout=most_s)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closing or self._waiting is not None)
                if self._closing:
                    return
                path, self._waiting, self._busy = self._waiting, None, True
                assert path is not None
            done = self._upload(path)
            with self._changed:
                self._busy = False
                if not done and self._waiting is None and not self._closing:
                    self._waiting = path
                self._changed.notify_all()
                if not done:
                    self._changed.wait_for(lambda: self._closing, timeout=AGAIN_S)

    def _upload(self, path: Path) -> bool:
        if not self._allowed():
            return False
        key = f"{self._prefix}{path.name}"
        started = time.monotonic()
        try:
            self._store.put(key, path)
            self._stored.append(key)
            self._store.remove(self._stored[:-KEPT])
            del self._stored[:-KEPT]
        except FileNotFoundError:  # training has written two newer ones meanwhile
            return True
        except ArtifactError as error:
            if not self._warned:
                _logger.warning("%s; the trial goes on, the checkpoint is tried again", error)
            self._warned = True
            return False
        _logger.debug("%s stored in %.2f s", key, time.monotonic() - started)
        self._warned = False
        return True
