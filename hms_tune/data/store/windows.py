"""Batches of labelled windows, straight from the store or from a copy of it on the device."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from hms_tune.data.labels import Labels
from hms_tune.data.schema import FRAME_SECONDS, SFREQ, WINDOW_FRAMES, WINDOW_SAMPLES, Kind
from hms_tune.data.store.gather import Gather, MappedGather, ResidentGather, StreamedGather, upload
from hms_tune.data.store.store import Store
from hms_tune.errors import DataError

RESIDENT_SHARE = 0.6
"""Where nobody has planned, an array moves to a GPU if it takes at most this share of what is free there."""

Wanted = tuple[Tensor, Tensor | None]
"""Rows of labels, and the shifts of their windows."""

_LENGTH: dict[Kind, int] = {"eeg": WINDOW_SAMPLES, "spectrogram": WINDOW_FRAMES}


class WindowSource:
    """The windows of some labels, gathered a batch at a time without touching single items.

    Where a row's window begins, and whether its file ends before the window does, is found once, here. On a
    GPU that holds the signals a batch is then index arithmetic and a gather there: as long as rows and
    shifts are on it too, the host neither copies nor waits. On a GPU that does not, batches are gathered on
    the host, and rows belong on the CPU.

    Parameters
    ----------
    store : where the signals are
    labels : which windows; ``index`` in the methods below counts its rows
    device : where batches go
    resident : which signals are copied to the device once, to be shared by every source of the same store
        there; the others are streamed from the memory map. None: those that take at most 0.6 of the free
        memory. The CPU always reads the memory map

    Raises
    ------
    DataError
        If an EEG of the labels is not in the store.
    """

    def __init__(
        self,
        store: Store,
        labels: Labels,
        device: torch.device,
        *,
        resident: Collection[Kind] | None = None,
    ) -> None:
        self.labels = labels
        self.device = device
        self._store = store
        self._resident = resident
        start, length, absent = _locate(store.recordings, labels.eeg_id, labels.split)
        if absent.size:
            raise DataError(
                f"{_ids('eeg_id', absent)} not in the store",
                where=store.path,
                hint=f"Run `hms-tune data prepare {store.root}`.",
            )
        offset = np.rint(labels.eeg_offset_seconds * SFREQ).astype(np.int64)
        first, last = torch.from_numpy(start), torch.from_numpy(start + length - WINDOW_SAMPLES)
        self._eeg_bounds = _Table(
            torch.stack([torch.from_numpy(start + offset).clamp(first, last), first, last])
        )
        start, length, self.without_spectrogram = _locate(
            store.spectrograms, labels.spectrogram_id, labels.split
        )
        frame = np.floor(labels.spectrogram_offset_seconds / FRAME_SECONDS).astype(np.int64)
        self._frames = _Table(torch.from_numpy(np.stack([start + frame, length - frame])))
        self._some_end_early = bool((length - frame < WINDOW_FRAMES).any())
        self._gathers: dict[Kind, Gather] = {}

    def __len__(self) -> int:
        return len(self.labels)

    def place(self, resident: Collection[Kind]) -> None:
        """Choose anew which signals live on the device; those that no longer do give their memory back."""
        if self._resident is not None and set(resident) == set(self._resident):
            return
        self._resident = resident
        self._gathers.clear()
        _drop_residents(self._store, self.device, keep=resident)

    def eeg(self, index: Tensor, shift: Tensor | None = None) -> Tensor:
        """EEG of some rows.

        Parameters
        ----------
        index : int64 (batch,), rows of the labels
        shift : int64 (batch,), samples by which each window moves, as far as its recording goes

        Returns
        -------
        float32 (batch, 20, 10000), µV around each recording's channel centres, 0 where the file has NaN
        """
        gather = self._gather("eeg")
        return eeg_as_read(gather(self._eeg_start(index, shift, gather.rows_live_on)))

    def spectrogram(self, index: Tensor) -> Tensor:
        """Ten-minute spectrograms of some rows.

        Parameters
        ----------
        index : int64 (batch,), rows of the labels

        Returns
        -------
        float32 (batch, 400, 300), natural logarithm of µV²/Hz; NaN where the file has NaN or has ended

        Raises
        ------
        DataError
            If a spectrogram of the labels is not in the store.
        """
        self.require_spectrograms()
        gather = self._gather("spectrogram")
        start, left = self._frames.at(index, gather.rows_live_on)
        windows = gather(start)
        if self._some_end_early:
            left = left.to(self.device, non_blocking=True)
            ended = torch.arange(WINDOW_FRAMES, device=self.device) >= left[:, None]
            windows.masked_fill_(ended[:, :, None], torch.nan)
        return spectrogram_as_read(windows)

    def announce(self, batches: Callable[[], Iterable[Wanted]], kinds: Iterable[Kind]) -> None:
        """Say which batches will be asked for next, in order, so that streamed ones can be gathered ahead.

        What is given never depends on it.

        Parameters
        ----------
        batches : makes the sequence of rows and shifts, a batch at a time as they are gathered
        kinds : what will be asked for
        """
        for kind in kinds:
            gather = self._gather(kind)
            if not isinstance(gather, StreamedGather):
                continue
            if kind == "eeg":
                gather.announce(self._eeg_start(*wanted, gather.rows_live_on) for wanted in batches())
            else:
                gather.announce(self._frames.at(rows, gather.rows_live_on)[0] for rows, _ in batches())

    def require_spectrograms(self) -> None:
        """Refuse labels whose spectrograms are not all in the store.

        Raises
        ------
        DataError
            Naming the spectrogram ids.
        """
        if self.without_spectrogram.size:
            raise DataError(
                f"{_ids('spectrogram_id', self.without_spectrogram)} without a spectrogram file",
                where=self._store.root / f"{self.labels.split}_spectrograms",
                hint="Add the files and prepare again, or set input.kaggle: null.",
            )

    def _eeg_start(self, index: Tensor, shift: Tensor | None, device: torch.device) -> Tensor:
        start, first, last = self._eeg_bounds.at(index, device).unbind()
        if shift is None:
            return start
        return (start + shift.to(device, non_blocking=True)).clamp(first, last)

    def _gather(self, kind: Kind) -> Gather:
        if kind not in self._gathers:
            self._gathers[kind] = self._make_gather(kind)
        return self._gathers[kind]

    def _make_gather(self, kind: Kind) -> Gather:
        array = self._store.eeg if kind == "eeg" else self._store.spectrogram
        length = _LENGTH[kind]
        if self.device.type != "cuda":
            return MappedGather(array, length)
        if kind in self._resident if self._resident is not None else _fits(array, self.device):
            return ResidentGather(_resident(self._store, kind, array, self.device), length)
        return StreamedGather(array, length, self.device)


def eeg_as_read(windows: Tensor) -> Tensor:
    """EEG as recipes read it: float16 (batch, n_times, 20) to float32 (batch, 20, n_times), NaN as 0."""
    # NaN goes while numbers are still half as wide.
    return windows.transpose(1, 2).contiguous().nan_to_num_(nan=0.0).float()


def spectrogram_as_read(windows: Tensor) -> Tensor:
    """Spectrograms as recipes read them: float16 (batch, n_frames, 400) to float32 (batch, 400, n_frames)."""
    return windows.transpose(1, 2).contiguous().float()


class _Table:
    """Numbers of every row of the labels, int64 (n_numbers, n_rows), on each device that asked for them."""

    def __init__(self, numbers: Tensor) -> None:
        self._on = {numbers.device: numbers}

    def at(self, rows: Tensor, device: torch.device) -> Tensor:
        """The numbers of some rows: int64 (n_numbers, batch)."""
        if device not in self._on:
            self._on[device] = next(iter(self._on.values())).to(device)
        return self._on[device][:, rows.to(device, non_blocking=True)]


_residents: dict[tuple[torch.device, str, Kind], Tensor] = {}
"""Signals on GPUs, by device and store digest; one store for each device."""


def _resident(store: Store, kind: Kind, array: NDArray[np.float16], device: torch.device) -> Tensor:
    """The whole array on the device, copied there once for all sources of the store."""
    key = (device, store.manifest.digest, kind)
    for other in [name for name in _residents if name[0] == device and name[1] != store.manifest.digest]:
        del _residents[other]
    if key not in _residents:
        _residents[key] = upload(array, _LENGTH[kind], device)
    return _residents[key]


def resident_bytes(device: torch.device) -> int:
    """Bytes that signals take on a device."""
    return sum(signals.nbytes for (where, _, _), signals in _residents.items() if where == device)


def _drop_residents(store: Store, device: torch.device, *, keep: Collection[Kind]) -> None:
    for key in [key for key in _residents if key[:2] == (device, store.manifest.digest)]:
        if key[2] not in keep:
            del _residents[key]


def _fits(array: NDArray[np.float16], device: torch.device) -> bool:
    return array.nbytes <= RESIDENT_SHARE * torch.cuda.mem_get_info(device)[0]


def _locate(
    index: pd.DataFrame, identifiers: NDArray[np.int64], split: str
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """First row and length of each identifier's signal, and the identifiers that have none."""
    of_split = index[index["split"] == split]
    position = of_split.index.get_indexer(pd.Index(identifiers))
    absent = np.unique(identifiers[position < 0])
    if of_split.empty:
        nothing = np.zeros(len(identifiers), dtype=np.int64)
        return nothing, nothing.copy(), absent
    start = of_split["start"].to_numpy(np.int64)[position]
    length = of_split["length"].to_numpy(np.int64)[position]
    return start, length, absent


def _ids(name: str, identifiers: NDArray[np.int64]) -> str:
    shown = ", ".join(str(identifier) for identifier in identifiers[:5])
    more = f" and {len(identifiers) - 5} more" if len(identifiers) > 5 else ""
    return f"{name} {shown}{more}"
