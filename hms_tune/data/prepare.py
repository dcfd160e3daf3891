"""From a competition folder to its store: in parallel, once, and safe to interrupt.

Everything is written beside the store in ``<store>.partial`` and renamed when it is complete. Where each
file goes is fixed before the first byte is written, so files can be written in any order, by any number of
threads, and by a second run that goes on where a killed one stopped: the bytes are the same.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pandas as pd

from hms_tune.data.defects import refuse
from hms_tune.data.journal import Journal, key_of
from hms_tune.data.labels import Split
from hms_tune.data.layout import SPLITS, Competition
from hms_tune.data.locking import exclusive
from hms_tune.data.parallel import available_cores
from hms_tune.data.schema import EEG_COLUMNS, TEST_COLUMNS, TRAIN_COLUMNS, Column
from hms_tune.data.signal_files import SignalFile, check_footer, list_signal_files, missing_files
from hms_tune.data.store import ARRAYS, FORMAT_VERSION, INDEXES, MANIFEST, Manifest, Store, store_path
from hms_tune.data.writing import Place, Progress, write_signals
from hms_tune.errors import DataError, StoreError

Tables = dict[Split, pd.DataFrame]

_COLUMNS: dict[Split, tuple[Column, ...]] = {"train": TRAIN_COLUMNS, "test": TEST_COLUMNS}

_SPARE_BYTES = 64 * 2**20
"""Room left free beside the store, for its indexes and for whoever else writes to the disk."""


def prepare(
    root: Path,
    *,
    store: Path | None = None,
    jobs: int | None = None,
    progress: Progress | None = None,
) -> Store:
    """Write the store of a competition folder, or find it current.

    Several callers on one folder wait for each other, and all but the first find the store current. A run
    that was killed is continued. Bad input leaves nothing behind.

    Parameters
    ----------
    root : the competition folder; either split may be absent, and so may whole spectrogram folders
    store : where to put it; see :func:`hms_tune.data.store.store_path` for the default
    jobs : files decoded at once; one for each core when None
    progress : told how many of how many files are done, in the calling thread

    Raises
    ------
    DataError
        At a defect of the folder; ``hms-tune data check`` lists all of them.
    StoreError
        If the store cannot be written where it should go.
    """
    root, jobs = Path(root), jobs or available_cores()
    competition = Competition.open(root)
    tables = {split: competition.table(split) for split in competition.splits}
    files = [file for split in tables for file in list_signal_files(competition, split, tables[split])]
    refuse(missing_files(competition, files))
    target = store_path(root) if store is None else Path(store)
    source = _source_digest(competition, files)
    if _is_current(target, source):
        return Store.open(target)
    _refuse_foreign(target)
    with _locked(target):
        if not _is_current(target, source):  # another caller may just have written it
            places = _plan(files, jobs)
            _build(competition, tables, places, target, source, jobs=jobs, progress=progress)
    return Store.open(target)


def _is_current(target: Path, source: str) -> bool:
    try:
        return Manifest.read(target).source == source and bool(Store.open(target))
    except StoreError:
        return False


def _source_digest(competition: Competition, files: Sequence[SignalFile]) -> str:
    """Digest of the tables' bytes and of each file's name, size and time of change."""
    digest = hashlib.sha256(f"store format {FORMAT_VERSION}\n".encode())
    for split in competition.splits:
        digest.update(hashlib.sha256(competition.table_path(split).read_bytes()).digest())
    for file in files:
        stat = file.path.stat()
        digest.update(
            f"{file.split} {file.kind} {file.identifier} {stat.st_size} {stat.st_mtime_ns}\n".encode()
        )
    return digest.hexdigest()


def _refuse_foreign(target: Path) -> None:
    """Never replace a folder that is not ours."""
    if (
        target.exists()
        and not (target / MANIFEST).is_file()
        and (not target.is_dir() or any(target.iterdir()))
    ):
        raise StoreError(
            "this is there already and is not a store", where=target, mend="Name another --store."
        )


@contextmanager
def _locked(target: Path) -> Iterator[None]:
    """Hold the store's lock, with its parent folders; those made here go again if they stay empty."""
    made = [folder for folder in target.parents if not folder.exists()]
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with exclusive(target.with_name(target.name + ".lock")):
            yield
    except OSError as error:
        mend = "Name a writable place with --store, with enough room."
        raise StoreError(f"cannot be written: {error.strerror or error}", where=target, mend=mend) from error
    finally:
        for folder in made:
            with suppress(OSError):
                folder.rmdir()


def _plan(files: Sequence[SignalFile], jobs: int) -> list[Place]:
    """Give each file its place, end to end in the order of the tables' identifiers."""
    next_row = dict.fromkeys(ARRAYS, 0)
    places = []
    with ThreadPoolExecutor(jobs) as pool:
        footers = list(pool.map(check_footer, files))
    refuse([defect for _, defects in footers for defect in defects])
    for file, (rows, _) in zip(files, footers, strict=True):
        places.append(Place(file, next_row[file.kind], rows))
        next_row[file.kind] += rows
    return places


def _build(
    competition: Competition,
    tables: Tables,
    places: Sequence[Place],
    target: Path,
    source: str,
    *,
    jobs: int,
    progress: Progress | None,
) -> None:
    partial = target.with_name(target.name + ".partial")
    if _is_current(partial, source):  # killed between its last byte and its renaming
        _swap(partial, target)
        return
    journal = Journal.read(partial / "journal.jsonl", source)
    if journal is None:
        shutil.rmtree(partial, ignore_errors=True)
        _refuse_full_disk(target, sum(place.bytes for place in places))
        partial.mkdir()
        journal = Journal(partial / "journal.jsonl", source)
    try:
        write_signals(partial, places, journal, jobs=jobs, progress=progress)
        _write_indexes(partial, places, journal)
        for split, columns in _COLUMNS.items():
            table = tables[split] if split in tables else _no_rows(columns)
            table.to_parquet(partial / f"{split}.parquet", index=False)
        _manifest(competition, places, journal, target, source).write(partial)
        journal.path.unlink()
    except (DataError, OSError):
        shutil.rmtree(partial, ignore_errors=True)
        raise
    _swap(partial, target)


def _no_rows(columns: Sequence[Column]) -> pd.DataFrame:
    return pd.DataFrame({column.name: np.empty(0, dtype=np.int64) for column in columns})


def _refuse_full_disk(target: Path, needed: int) -> None:
    free = shutil.disk_usage(target.parent).free
    if free < needed + _SPARE_BYTES:
        raise StoreError(
            f"the store takes {needed / 2**30:.2f} GiB, the disk has {free / 2**30:.2f} GiB free",
            where=target,
            mend="Free some room, or name another disk with --store.",
        )


def _write_indexes(partial: Path, places: Sequence[Place], journal: Journal) -> None:
    for kind, name in INDEXES.items():
        chosen = [place for place in places if place.file.kind == kind]
        written = [journal.finished[key_of(place.file)] for place in chosen]
        index = pd.DataFrame(
            {
                f"{kind}_id": np.array([place.file.identifier for place in chosen], dtype=np.int64),
                "start": np.array([place.start for place in chosen], dtype=np.int64),
                "length": np.array([place.rows for place in chosen], dtype=np.int64),
                "split": np.array([place.file.split for place in chosen], dtype=str),
            }
        )
        if kind == "eeg":
            index["clipped"] = np.array([entry.clipped for entry in written], dtype=np.int64)
            centre = np.array([entry.centre for entry in written], dtype=np.float32)
            for column, channel in enumerate(EEG_COLUMNS):
                index[f"centre_{channel}"] = centre[:, column]
        index.to_parquet(partial / name, index=False)


def _manifest(
    competition: Competition, places: Sequence[Place], journal: Journal, target: Path, source: str
) -> Manifest:
    digest = hashlib.sha256(f"store format {FORMAT_VERSION}\n".encode())
    for split in competition.splits:
        digest.update(hashlib.sha256(competition.table_path(split).read_bytes()).digest())
    for place in places:
        entry = journal.finished[key_of(place.file)]
        digest.update(f"{entry.key} {place.rows} {entry.checksum} {entry.centre}\n".encode())

    def count(kind: str) -> dict[str, int]:
        return {split: sum(p.file.kind == kind and p.file.split == split for p in places) for split in SPLITS}

    return Manifest(
        source=source,
        digest=digest.hexdigest(),
        root=os.path.relpath(competition.root.resolve(), target.resolve()),
        n_samples=sum(place.rows for place in places if place.file.kind == "eeg"),
        n_frames=sum(place.rows for place in places if place.file.kind == "spectrogram"),
        recordings=count("eeg"),
        spectrograms=count("spectrogram"),
        clipped_samples=sum(entry.clipped for entry in journal.finished.values()),
    )


def _swap(partial: Path, target: Path) -> None:
    """Put the finished store in place of an old one; processes that have the old one open keep it."""
    old = target.with_name(target.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.rename(old)
    partial.rename(target)
    shutil.rmtree(old, ignore_errors=True)
