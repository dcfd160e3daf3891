"""The index of a store as what was written into it, and back: an older store gives its unchanged slices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from hms_tune.data.schema import EEG_COLUMNS, SFREQ, Kind
from hms_tune.data.store.journal import Key, Source, Written
from hms_tune.data.store.store import Store

_CENTRES = [f"centre_{channel}" for channel in EEG_COLUMNS]


@dataclass(frozen=True, slots=True)
class OlderStore:
    """An older store, for the slices that have not changed.

    Parameters
    ----------
    folder : the store
    written : what lies in it
    """

    folder: Path
    written: Mapping[Key, Written]

    @classmethod
    def of(cls, store: Store) -> OlderStore:
        """Every slice of an open store."""
        entries = [
            *_entries("eeg", store.recordings, store.manifest.source_sfreq),
            *_entries("spectrogram", store.spectrograms, SFREQ),
        ]
        return cls(store.path, {entry.key: entry for entry in entries})

    def has(self, source: Source) -> bool:
        """Whether it holds this file as the file is now."""
        return source.key in self.written and self.written[source.key].is_of(source)


def index_of(kind: Kind, written: Sequence[Written]) -> pd.DataFrame:
    """The index of one array, a row for each file; see :class:`hms_tune.data.store.store.Store`."""
    entries = [entry for entry in written if entry.kind == kind]

    def whole(name: str) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        return np.array([getattr(entry, name) for entry in entries], dtype=np.int64)

    index = pd.DataFrame(
        {
            f"{kind}_id": whole("identifier"),
            "start": whole("start"),
            "length": whole("rows"),
            "split": np.array([entry.split for entry in entries], dtype=str),
            "checksum": whole("checksum"),
            "file_size": whole("size"),
            "file_mtime_ns": whole("mtime_ns"),
        }
    )
    if kind == "eeg":
        index["clipped"] = whole("clipped")
        centre = np.array([entry.centre for entry in entries], dtype=np.float32)
        index[_CENTRES] = centre.reshape(-1, len(_CENTRES))
    return index


def _entries(kind: Kind, index: pd.DataFrame, sfreq: int) -> list[Written]:
    centres = index[_CENTRES].to_numpy(np.float32).tolist() if kind == "eeg" else [()] * len(index)
    clipped = index["clipped"].tolist() if kind == "eeg" else [0] * len(index)
    columns = ["split", "file_size", "file_mtime_ns", "start", "length", "checksum"]
    values = zip(*(index[name].tolist() for name in columns), strict=True)
    return [
        Written(
            kind, split, int(identifier), size, mtime_ns, start, rows, checksum, clips, tuple(centre), sfreq
        )
        for identifier, (split, size, mtime_ns, start, rows, checksum), clips, centre in zip(
            index.index, values, clipped, centres, strict=True
        )
    ]
