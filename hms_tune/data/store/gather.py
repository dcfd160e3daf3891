"""Equally long slices of one array of the store: from a copy on the device, or from the memory map."""

from __future__ import annotations

import itertools
import warnings
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

UPLOADED_AT_ONCE = 2**28
"""Bytes of the store that are copied to a device in one piece, so that the host never holds all of it."""

AHEAD = 3
"""Batches that are gathered before they are asked for."""


class Gather(Protocol):
    """Slices that begin at given rows of one array.

    ``rows_live_on`` is where it wants to be told the rows: what it is given from elsewhere is moved first,
    which on a GPU would wait for the GPU.
    """

    rows_live_on: torch.device

    def __call__(self, start: Tensor) -> Tensor:
        """From int64 (batch,) to float16 (batch, length, n_columns) on the device; NaN past the array."""
        ...

    def announce(self, starts: Iterable[Tensor]) -> None:
        """Say what will be asked for next, in order; what helps is prepared. Never changes what is given."""
        ...


class ResidentGather:
    """Slices of a copy on the device: one kernel for a batch, and nothing that waits for the device.

    Parameters
    ----------
    padded : float16 (n_rows + length, n_columns) on the device, the last ``length`` rows NaN
    length : rows of a slice
    """

    def __init__(self, padded: Tensor, length: int) -> None:
        self.rows_live_on = padded.device
        columns = padded.shape[1]
        # Every slice that could begin at any row, as one overlapping view: indexing it copies whole slices.
        shape = (len(padded) - length + 1, length, columns)
        self._slices = padded.as_strided(shape, (columns, columns, 1))

    def __call__(self, start: Tensor) -> Tensor:
        """Gather."""
        return self._slices[start.to(self.rows_live_on, non_blocking=True).clamp(max=len(self._slices) - 1)]

    def announce(self, starts: Iterable[Tensor]) -> None:
        """Nothing to prepare."""


class MappedGather:
    """Slices of the memory map, gathered when asked for; for the CPU."""

    def __init__(self, array: NDArray[np.float16], length: int) -> None:
        self.rows_live_on = torch.device("cpu")
        self._slices = MappedSlices(array, length)

    def __call__(self, start: Tensor) -> Tensor:
        """Gather."""
        return self._slices.gather(start)

    def announce(self, starts: Iterable[Tensor]) -> None:
        """Nothing: gathering takes the cores that compute, whenever it happens."""


class StreamedGather:
    """Slices of the memory map on a device that has no room for all of it.

    A thread gathers the announced batches into pinned memory and starts their copies on a stream of its own,
    up to :data:`AHEAD` of them before they are asked for. What comes unannounced is gathered on the spot.
    Pinned memory comes from torch's allocator, which does not give a block out again while a copy reads it.

    Parameters
    ----------
    array : float16 (n_rows, n_columns) of the store
    length : rows of a slice
    device : where batches go; on the CPU, for tests, nothing is pinned and no stream is used
    """

    def __init__(self, array: NDArray[np.float16], length: int, device: torch.device) -> None:
        self.rows_live_on = torch.device("cpu")
        self._slices = MappedSlices(array, length)
        self._device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="gather")
        self._announced: Iterator[Tensor] = iter(())
        self._coming: deque[tuple[Tensor, Future[_OnTheWay]]] = deque()
        self.ahead_of_time = 0
        """Batches that were ready, or on their way, when they were asked for."""

    def __call__(self, start: Tensor) -> Tensor:
        """Gather, or take what was gathered ahead."""
        if self._coming:
            expected, future = self._coming.popleft()
            if torch.equal(expected, start):
                self._fill()
                self.ahead_of_time += 1
                return future.result().arrived()
            self.announce(())  # something else is wanted; what was announced will not come either
        return self._send(start).arrived()

    def announce(self, starts: Iterable[Tensor]) -> None:
        """Begin to gather these; what was announced before is forgotten."""
        for _, future in self._coming:
            future.cancel()
        self._coming.clear()
        self._announced = iter(starts)
        self._fill()

    def _fill(self) -> None:
        for start in itertools.islice(self._announced, AHEAD - len(self._coming)):
            self._coming.append((start, self._thread.submit(self._send, start)))

    def _send(self, start: Tensor) -> _OnTheWay:
        windows = self._slices.gather(start, pinned=self._stream is not None)
        if self._stream is None:
            return _OnTheWay(windows, None)
        with torch.cuda.stream(self._stream):
            moved = windows.to(self._device, non_blocking=True)
            return _OnTheWay(moved, self._stream.record_event())


@dataclass(frozen=True, slots=True)
class _OnTheWay:
    windows: Tensor
    copied: torch.cuda.Event | None

    def arrived(self) -> Tensor:
        """The windows, for work that is queued from now on; the host waits for nothing."""
        if self.copied is not None:
            current = torch.cuda.current_stream(self.windows.device)
            current.wait_event(self.copied)
            self.windows.record_stream(current)
        return self.windows


class MappedSlices:
    """Slices of a memory-mapped array; those that run over its end are filled up with NaN."""

    def __init__(self, array: NDArray[np.float16], length: int) -> None:
        if len(array) < length:  # shorter than one slice altogether
            padding = np.full((length - len(array), array.shape[1]), np.nan, dtype=np.float16)
            array = np.concatenate([array, padding])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # the map is read-only, and so is all we do with it
            mapped = torch.from_numpy(array)
        self._length = length
        row, item = mapped.stride()
        self._n_starts = len(mapped) - length + 1
        self._view = mapped.as_strided((self._n_starts, length, mapped.shape[1]), (row, row, item))

    def gather(self, start: Tensor, *, pinned: bool = False) -> Tensor:
        """From int64 (batch,) on the CPU to float16 (batch, length, n_columns) on the CPU."""
        begin = start.clamp(max=self._n_starts - 1)
        shape = (len(begin), *self._view.shape[1:])
        windows = torch.empty(shape, dtype=self._view.dtype, pin_memory=pinned)
        torch.index_select(self._view, 0, begin, out=windows)
        for item in (start > begin).nonzero().flatten().tolist():
            late = min(int(start[item] - begin[item]), self._length)
            kept = windows[item, late:].clone()
            windows[item, : self._length - late] = kept
            windows[item, self._length - late :] = torch.nan
        return windows


def upload(array: NDArray[np.float16], length: int, device: torch.device) -> Tensor:
    """Copy an array to a device, with ``length`` rows of NaN behind it.

    Returns
    -------
    float16 (n_rows + length, n_columns)
    """
    padded = torch.empty((len(array) + length, array.shape[1]), dtype=torch.float16, device=device)
    padded[len(array) :] = torch.nan
    step = max(1, UPLOADED_AT_ONCE // (array.shape[1] * array.itemsize))
    for first in range(0, len(array), step):
        piece = torch.from_numpy(np.array(array[first : first + step]))
        padded[first : first + len(piece)] = piece
    return padded
