"""Checkpoints that are whole or not there.

A file is a SHA-256 digest followed by what ``torch.save`` wrote. It is written beside its place, flushed to
the disk and renamed, so that a kill or a full disk leaves the one before it; a flipped or missing bit is
found by the digest. Nothing is unpickled: see :mod:`~hms_tune.machine.saved_state`.
"""

from __future__ import annotations

import hashlib
import io
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from hms_tune.errors import CheckpointError, first_line
from hms_tune.machine.regular_file import open_regular
from hms_tune.machine.saved_state import NotAStateError, read_state

_MAGIC = b"hms-tune checkpoint 1\n"
_KEPT = 2
"""How many checkpoints stay: the newest and one to fall back on."""

_log = logging.getLogger(__name__)


class CheckpointClock:
    """Says when the next checkpoint is due; it starts to run when it is made.

    Parameters
    ----------
    every_s : seconds from one checkpoint to the next; 0: one is always due
    now : asked whether one is due all the same
    """

    def __init__(self, every_s: float, now: Callable[[], bool] = lambda: False) -> None:
        self._every_s = every_s
        self._now = now
        self._written_at = time.monotonic()

    @property
    def due(self) -> bool:
        """Whether to write one now."""
        return time.monotonic() - self._written_at >= self._every_s or self._now()

    def written(self) -> None:
        """Begin to count anew."""
        self._written_at = time.monotonic()


def checkpoint_path(directory: Path, number: int) -> Path:
    """Where checkpoint ``number`` lies."""
    return directory / f"checkpoint-{number:06d}.pt"


def shared_fold_path(directory: Path, fold: int) -> Path:
    """Where a trial finds the newest checkpoint of a fold that another worker trained for it."""
    return directory / f"shared-{fold}.pt"


def write_checkpoint(directory: Path, number: int, state: dict[str, Any]) -> Path:
    """Write ``state`` as checkpoint ``number`` and remove the ones no longer needed.

    Raises
    ------
    CheckpointError
        If it cannot be written, for want of space for example; earlier checkpoints stay loadable.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    payload = buffer.getbuffer()
    path = checkpoint_path(directory, number)
    partial = path.with_suffix(".partial")
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            file.write(_MAGIC)
            file.write(hashlib.sha256(payload).digest())
            file.write(payload)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
        _flush_directory(directory)
    except OSError as error:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise CheckpointError(
            f"the checkpoint cannot be written ({error.strerror or error})",
            where=path,
            hint="Make room or set HMS_TUNE_ARTIFACTS to another place; the one before stays",
        ) from error
    for old in _numbered(directory)[:-_KEPT]:
        old.unlink(missing_ok=True)
    return path


def read_newest_checkpoint(directory: Path) -> dict[str, Any] | None:
    """The newest checkpoint that is whole; None when there is none."""
    for path in reversed(_numbered(directory)):
        try:
            return read_checkpoint(path)
        except CheckpointError as error:
            _log.warning("%s; falling back on the one before", error)
    return None


def read_checkpoint(path: Path) -> dict[str, Any]:
    """One checkpoint.

    Raises
    ------
    CheckpointError
        If it is missing, cut, altered or of another format.
    """
    try:
        state = read_state(_payload(path))
    except (NotAStateError, MemoryError) as error:
        raise CheckpointError("holds other things than tensors and plain values", where=path) from error
    if not isinstance(state, dict):
        raise CheckpointError("is no state of a trial", where=path)
    return state


@contextmanager
def contents_checked(where: Path) -> Iterator[None]:
    """Take in what a checkpoint holds, which may be anything that fits its form.

    Raises
    ------
    CheckpointError
        If it is no trial's: something is missing, or of another kind or shape.
    """
    try:
        yield
    except torch.OutOfMemoryError:
        raise  # the device's fault
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise CheckpointError(
            f"the checkpoint holds something else than a trial's state ({reason})",
            where=where,
            hint="Remove it; the trial then begins anew",
        ) from error


def verify_checkpoint(path: Path) -> None:
    """Make sure that a checkpoint is whole, without loading it.

    Raises
    ------
    CheckpointError
        If it is missing, cut, altered or of another format.
    """
    _payload(path)


def _payload(path: Path) -> memoryview:
    try:
        with open_regular(path) as file:
            content = file.read()
    except OSError as error:
        raise CheckpointError(f"cannot be read ({error.strerror or error})", where=path) from error
    start = len(_MAGIC) + hashlib.sha256().digest_size
    payload = memoryview(content)[start:]
    if not content.startswith(_MAGIC) or hashlib.sha256(payload).digest() != content[len(_MAGIC) : start]:
        raise CheckpointError("the checkpoint is damaged", where=path)
    return payload


def _numbered(directory: Path) -> list[Path]:
    return sorted(directory.glob("checkpoint-*.pt"))


def _flush_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def fold_weights_path(directory: Path, fold: int) -> Path:
    """Where the weights of a fold lie."""
    return directory / f"fold_{fold}.safetensors"


def full_weights_path(directory: Path) -> Path:
    """Where the weights of a network trained on all rows lie."""
    return directory / "full.safetensors"


def write_weights(path: Path, weights: dict[str, Tensor]) -> None:
    """Write weights atomically."""
    partial = path.with_suffix(".partial")
    save_file(weights, partial)
    partial.replace(path)
