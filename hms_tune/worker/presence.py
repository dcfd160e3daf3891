"""How a worker shows that it lives: its row among the study's workers, and a file of its machine."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from hms_tune.database.connect import Storage
from hms_tune.database.queries.data_sets import torch_versions
from hms_tune.database.queries.workers import SEEN_EVERY_S, Presence, add_worker, update_worker
from hms_tune.machine.background import Every
from hms_tune.machine.private_folder import private_folder
from hms_tune.machine.processes import leave_mark, remove_mark, this_process
from hms_tune.machine.usage import UsageMeter
from hms_tune.training.events import EpochEnded, Event

__all__ = ["ImageCount", "Presence", "announce"]

_logger = logging.getLogger(__name__)


class ImageCount:
    """Images that the worker's slots trained since they were last taken."""

    def __init__(self) -> None:
        self._images = 0
        self._lock = threading.Lock()

    def add(self, event: Event) -> None:
        """Count an epoch, unless an earlier attempt trained it."""
        if isinstance(event, EpochEnded) and not event.replayed:
            self.put_back(event.images)

    def put_back(self, images: int) -> None:
        """Count images that were taken and could not be written: they are written with the next."""
        with self._lock:
            self._images += images

    def take(self) -> int:
        """Return the count and begin again at 0."""
        with self._lock:
            images, self._images = self._images, 0
        return images


@contextmanager
def showing_life(home: Path) -> Iterator[None]:
    """Touch ``home/alive/HOST`` every ten seconds during the block, for whoever watches over this process.

    Also while the database is away: a worker that waits for it is well.
    """
    file = home / "alive" / socket.gethostname()

    def touch() -> None:
        with suppress(OSError):  # a full disk ends nobody
            private_folder(file.parent)
            file.touch()

    try:
        with Every(SEEN_EVERY_S, touch, name="alive", at_once=True):
            yield
    finally:
        with suppress(OSError):
            file.unlink()


def warn_of_other_torch(storage: Storage, presence: Presence) -> None:
    """Say that workers of the study ran another PyTorch; the row of each has its own."""
    with storage.statements() as connection:
        known = torch_versions(connection, presence.study_id)
    own = presence.torch or ""
    others = [each for each in known if each.partition(".")[0] != own.partition(".")[0]]
    if others:
        _logger.warning(
            "This worker runs PyTorch %s, others of the study ran %s: scores may differ by more than chance",
            own,
            ", ".join(others),
        )


@contextmanager
def announce(storage: Storage, presence: Presence, images: ImageCount | None = None) -> Iterator[None]:
    """Be listed among the study's workers during the block.

    Parameters
    ----------
    images : what the slots train, written beside the worker's usage minute by minute
    """
    leave_mark(presence.worker_id)
    add_worker(storage, presence, this_process())
    meter, count = UsageMeter(presence.devices), images or ImageCount()

    def refresh(*, stopped: bool = False) -> None:
        usage, trained = meter.look().as_json(), count.take()
        if not update_worker(storage, presence, usage=usage, images=trained, stopped=stopped):
            count.put_back(trained)

    with Every(SEEN_EVERY_S, refresh, name="presence"):
        yield
    refresh(stopped=True)
    remove_mark(presence.worker_id)
