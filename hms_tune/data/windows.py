"""Batches of labelled windows, straight from the store or from a copy of it on the device."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pandas as pd
import torch
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray
from torch import Tensor

from hms_tune.data.labels import Labels
from hms_tune.data.schema import FRAME_SECONDS, SFREQ, WINDOW_FRAMES, WINDOW_SAMPLES
from hms_tune.data.store import Store
from hms_tune.errors import DataError

Kind = Literal["eeg", "spectrogram"]

RESIDENT_SHARE = 0.6
"""A store array moves to a GPU if it takes at most this share of the memory that is free there."""


class WindowSource:
    """The windows of some labels, gathered a batch at a time without touching single items.

    Parameters
    ----------
    store : where the signals are
    labels : which windows; ``index`` in the methods below counts its rows
    device : where batches go. On a GPU the signals are copied there once and shared by every source of the
        same store; those that do not fit are gathered on the host into pinned memory

    Raises
    ------
    DataError
        If an EEG of the labels is not in the store.
    """

    def __init__(self, store: Store, labels: Labels, device: torch.device) -> None:
        self.labels = labels
        self.device = device
        self._store = store
        start, length, absent = _locate(store.recordings, labels.eeg_id, labels.split)
        if absent.size:
            raise DataError(
                f"{_ids('eeg_id', absent)} not in the store",
                where=store.path,
                mend=f"Run `hms-tune data prepare {store.root}`.",
            )
        offset = np.rint(labels.eeg_offset_seconds * SFREQ).astype(np.int64)
        self._eeg_first = torch.from_numpy(start)
        self._eeg_last = torch.from_numpy(start + length - WINDOW_SAMPLES)
        self._eeg_start = torch.from_numpy(start + offset).clamp(self._eeg_first, self._eeg_last)
        start, length, self.without_spectrogram = _locate(
            store.spectrograms, labels.spectrogram_id, labels.split
        )
        frame = np.floor(labels.spectrogram_offset_seconds / FRAME_SECONDS).astype(np.int64)
        self._frames_left = torch.from_numpy(length - frame)
        self._frame_start = torch.from_numpy(start + frame)
        self._gathers: dict[Kind, _Gather] = {}

    def __len__(self) -> int:
        return len(self.labels)

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
        index = index.cpu()
        start = self._eeg_start[index]
        if shift is not None:
            start = (start + shift.cpu()).clamp(self._eeg_first[index], self._eeg_last[index])
        windows = self._gather("eeg")(start)
        return windows.transpose(1, 2).contiguous().float().nan_to_num_(nan=0.0)

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
        index = index.cpu()
        windows = self._gather("spectrogram")(self._frame_start[index])
        spectrogram = windows.transpose(1, 2).contiguous().float()
        left = self._frames_left[index]
        if bool((left < WINDOW_FRAMES).any()):
            ended = torch.arange(WINDOW_FRAMES) >= left[:, None]
            spectrogram.masked_fill_(ended[:, None, :].to(self.device), torch.nan)
        return spectrogram

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
                mend="Add the files and prepare again, or set input.kaggle: null.",
            )

    def _gather(self, kind: Kind) -> _Gather:
        if kind not in self._gathers:
            array = self._store.eeg if kind == "eeg" else self._store.spectrogram
            length = WINDOW_SAMPLES if kind == "eeg" else WINDOW_FRAMES
            resident = _resident(self._store, kind, array, self.device)
            self._gathers[kind] = _Gather(array, resident, length, self.device)
        return self._gathers[kind]


class _Gather:
    """Equally long slices of one array of the store: float16 (batch, length, n_columns) on the device."""

    def __init__(
        self, array: NDArray[np.float16], resident: Tensor | None, length: int, device: torch.device
    ) -> None:
        self._device = device
        self._length = length
        self._n_rows, n_columns = array.shape
        # Every window that could begin at any row, as one overlapping view: indexing it copies whole windows.
        # A window that would run over the end of the array begins earlier and is put right afterwards.
        self._n_starts = max(self._n_rows - length + 1, 0)
        self._resident: Tensor | None = None
        if self._n_starts == 0:  # shorter than one window altogether
            padding = np.full((length - self._n_rows, n_columns), np.nan, dtype=np.float16)
            array, self._n_starts, resident = np.concatenate([array, padding]), 1, None
        if resident is not None:
            self._resident = resident.as_strided(
                (self._n_starts, length, n_columns), (n_columns, n_columns, 1)
            )
        row, item = array.strides
        self._view = as_strided(array, (self._n_starts, length, n_columns), (row, row, item), writeable=False)

    def __call__(self, start: Tensor) -> Tensor:
        begin = start.clamp(max=self._n_starts - 1)
        windows = self._windows(begin)
        late = start - begin
        if bool(late.any()):
            row = (torch.arange(self._length) + late[:, None]).clamp(max=self._length - 1).to(self._device)
            windows = windows.gather(1, row[:, :, None].expand_as(windows))
        return windows

    def _windows(self, begin: Tensor) -> Tensor:
        if self._resident is not None:
            return self._resident[begin.to(self._device, non_blocking=True)]
        windows = torch.from_numpy(self._view[begin.numpy()])
        if self._device.type == "cuda":
            return windows.pin_memory().to(self._device, non_blocking=True)
        return windows.to(self._device)


_residents: dict[tuple[str, str], dict[Kind, Tensor]] = {}
"""Signals on GPUs, by device and store digest; one store for each device."""


def _resident(store: Store, kind: Kind, array: NDArray[np.float16], device: torch.device) -> Tensor | None:
    """The whole array on the GPU, or None when the device is not one or has no room."""
    if device.type != "cuda" or array.size == 0:
        return None
    key = (str(device), store.manifest.digest)
    for other in [name for name in _residents if name[0] == key[0] and name != key]:
        del _residents[other]
    signals = _residents.setdefault(key, {})
    if kind not in signals:
        free, _ = torch.cuda.mem_get_info(device)
        if array.nbytes > RESIDENT_SHARE * free:
            return None
        signals[kind] = _upload(array, device)
    return signals[kind]


def _upload(array: NDArray[np.float16], device: torch.device) -> Tensor:
    """Copy in pieces, so that the host never holds the whole array."""
    resident = torch.empty(array.shape, dtype=torch.float16, device=device)
    step = max(1, 2**28 // array.strides[0])
    for first in range(0, len(array), step):
        resident[first : first + step] = torch.from_numpy(np.array(array[first : first + step]))
    return resident


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
