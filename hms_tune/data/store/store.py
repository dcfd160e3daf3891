"""The store: a competition folder in the form training reads, memory-mapped.

::

    store/
      eeg.f16               float16 (n_samples, 20), recordings end to end, µV from each channel's centre
      spectrogram.f16       float16 (n_frames, 400), natural logarithm of µV²/Hz, columns LL, RL, LP, RP
      recordings.parquet    where each EEG lies, and the centres that were taken off it
      spectrograms.parquet  where each spectrogram lies
      train.parquet         the rows of train.csv, validated
      test.parquet          the rows of test.csv, validated
      manifest.json         versions, digests, counts, units

NaN is kept in both arrays. float16 holds a centred sample within 2⁻¹¹ of its value (0.1 µV at 200 µV), and a
log power within 0.004; see :mod:`hms_tune.data.files.encoding`.
"""

from __future__ import annotations

import json
import os
import shlex
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from hms_tune.data.closed_folder import place_at_home, takes_files
from hms_tune.data.files.encoding import FLOAT16_MAX, POWER_FLOOR
from hms_tune.data.schema import ARRAYS, EEG_COLUMNS, SFREQ, Kind
from hms_tune.errors import StoreError

FORMAT_VERSION = 2
MANIFEST = "manifest.json"
INDEXES = {"eeg": "recordings.parquet", "spectrogram": "spectrograms.parquet"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a store holds and what it was made from.

    Parameters
    ----------
    source : digest of the tables' bytes and of every file's name, size and time of change; tells whether the
        store is current
    digest : digest of the tables and of every stored value; equal data have equal digests on any machine
    root : the competition folder, relative to the store
    n_samples, n_frames : rows of the two arrays
    recordings, spectrograms : files of each split
    clipped_samples : EEG samples beyond the float16 range, stored at its edge
    sfreq : of the stored EEG, Hz
    source_sfreq : of the EEG files, Hz
    """

    source: str
    digest: str
    root: str
    n_samples: int
    n_frames: int
    recordings: dict[str, int]
    spectrograms: dict[str, int]
    clipped_samples: int
    format_version: int = FORMAT_VERSION
    sfreq: int = SFREQ
    source_sfreq: int = SFREQ
    clip_uv: float = FLOAT16_MAX
    power_floor: float = POWER_FLOOR
    eeg_columns: tuple[str, ...] = field(default=EEG_COLUMNS)

    def write(self, folder: Path) -> None:
        """Write ``manifest.json``."""
        text = json.dumps(asdict(self), indent=2, sort_keys=True) + "\n"
        (folder / MANIFEST).write_text(text, encoding="utf-8")

    @classmethod
    def read(cls, folder: Path, *, hint: str | None = None) -> Manifest:
        """Read ``manifest.json``.

        Parameters
        ----------
        hint : how to make the store anew

        Raises
        ------
        StoreError
            If it is missing, damaged or of another format.
        """
        path = folder / MANIFEST
        hint = hint or f"Prepare its competition folder again, with --store {shlex.quote(str(folder))}"
        try:
            fields: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            version = fields.get("format_version")
            if version == FORMAT_VERSION:
                return cls(**(fields | {"eeg_columns": tuple(fields["eeg_columns"])}))
        except FileNotFoundError as error:
            raise StoreError("not a store", where=folder, hint=hint) from error
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise StoreError(f"the manifest is damaged: {error}", where=path, hint=hint) from error
        what = f"the store has format {version}, this version reads format {FORMAT_VERSION}"
        raise StoreError(what, where=path, hint=hint)


@dataclass(frozen=True, slots=True)
class Store:
    """An open store.

    Parameters
    ----------
    path : the store's folder
    root : the competition folder it was made from
    manifest : versions, digests and counts
    eeg : float16 (n_samples, 20), read-only
    spectrogram : float16 (n_frames, 400), read-only; no rows when the competition has no spectrograms
    recordings : indexed by ``eeg_id``: ``start``, ``length`` (rows of ``eeg``), ``split``, ``checksum``
        (CRC-32 of its bytes), ``file_size`` and ``file_mtime_ns`` of its file, ``clipped`` and
        ``centre_<channel>`` (µV); an id in both splits has two rows
    spectrograms : indexed by ``spectrogram_id``: the same without ``clipped`` and centres, rows of
        ``spectrogram``
    train, test : the validated tables; without rows for a split the competition does not have
    """

    path: Path
    root: Path
    manifest: Manifest
    eeg: NDArray[np.float16]
    spectrogram: NDArray[np.float16]
    recordings: pd.DataFrame
    spectrograms: pd.DataFrame
    train: pd.DataFrame
    test: pd.DataFrame

    @classmethod
    def open(cls, path: Path) -> Store:
        """Open a store, or the store of a competition folder.

        Raises
        ------
        StoreError
            If there is none, or it is damaged or of another format.
        """
        folder, hint = Path(path), None
        if not (folder / MANIFEST).is_file():
            folder, hint = store_path(folder), prepare_command(folder)
        manifest = Manifest.read(folder, hint=hint)
        try:
            return cls(
                path=folder,
                root=competition_of(folder),
                manifest=manifest,
                eeg=_map(folder, "eeg", manifest.n_samples),
                spectrogram=_map(folder, "spectrogram", manifest.n_frames),
                recordings=pd.read_parquet(folder / INDEXES["eeg"]).set_index("eeg_id"),
                spectrograms=pd.read_parquet(folder / INDEXES["spectrogram"]).set_index("spectrogram_id"),
                train=pd.read_parquet(folder / "train.parquet"),
                test=pd.read_parquet(folder / "test.parquet"),
            )
        except (OSError, ValueError, KeyError, pa.ArrowException) as error:
            what = f"the store is damaged: {' '.join(str(error).split())}"
            again = hint or f"{prepare_command(competition_of(folder))} --store {shlex.quote(str(folder))}"
            raise StoreError(what, where=folder, hint=f"Delete it, then: {again}") from error


def is_prepared(path: Path) -> bool:
    """Whether a path is a store, or the competition folder of one."""
    return (path / MANIFEST).is_file() or (store_path(path) / MANIFEST).is_file()


def prepare_command(root: Path) -> str:
    """What makes the store of a competition folder."""
    return f"hms-tune data prepare {shlex.quote(str(root))}"


def store_path(root: Path) -> Path:
    """Where the store of a competition folder lies unless the user says otherwise.

    ``ROOT/store``, or a folder in ``HMS_TUNE_HOME/stores`` when ``ROOT`` is not to be written to.
    """
    root = Path(root)
    beside = root / "store"
    if beside.is_dir() or not root.is_dir() or takes_files(root):
        return beside
    return place_at_home(root, "stores")


def competition_of(path: Path) -> Path:
    """The competition folder that a person names: itself, or by a store that was made from it."""
    if not (path / MANIFEST).is_file():
        return path
    return Path(os.path.normpath(path.resolve() / Manifest.read(path).root))


def _map(folder: Path, kind: Kind, n_rows: int) -> NDArray[np.float16]:
    name, n_columns = ARRAYS[kind]
    size, wanted = (folder / name).stat().st_size, n_rows * n_columns * 2
    if size != wanted:
        raise ValueError(f"{name} has {size} bytes instead of {wanted}")
    if n_rows == 0:  # an empty file cannot be mapped
        return np.empty((0, n_columns), dtype=np.float16)
    return np.memmap(folder / name, dtype=np.float16, mode="r", shape=(n_rows, n_columns))
