"""From a competition folder to its store: in parallel, once, and safe to interrupt.

Everything is written beside the store in ``<store>.partial`` and renamed when it is complete. The order of
the files is fixed and their slices lie end to end, so a second run goes on where a killed one stopped, and
the bytes are the same. The footers tell how long each slice is, so that files are decoded in any order.
Files that an older store of the folder holds unchanged are copied from it.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pandas as pd

from hms_tune.data.files.competition import Competition
from hms_tune.data.files.decoding import check_footer, collect_footers
from hms_tune.data.files.defects import refuse
from hms_tune.data.files.lock import exclusive
from hms_tune.data.files.signal_file import SignalFile
from hms_tune.data.files.signal_files import list_signal_files, missing_files
from hms_tune.data.files.statement import Statement
from hms_tune.data.schema import ARRAYS, KINDS, SPLITS, TABLE_COLUMNS, Column, Split
from hms_tune.data.store.decoder import row_bytes
from hms_tune.data.store.journal import Source, Written, read_journal
from hms_tune.data.store.places import Place, place_files, rows_of_arrays
from hms_tune.data.store.reuse import OlderStore, index_of
from hms_tune.data.store.store import (
    FORMAT_VERSION,
    INDEXES,
    MANIFEST,
    Manifest,
    Store,
    competition_of,
    store_path,
)
from hms_tune.data.store.write import JOURNAL, write_signals
from hms_tune.errors import DataError, StoreError
from hms_tune.machine.cores import available_cores
from hms_tune.machine.private_folder import private_folder
from hms_tune.machine.progress import ProgressCallback

_logger = logging.getLogger(__name__)

Tables = dict[Split, pd.DataFrame]

_SPARE_BYTES = 64 * 2**20
"""Room left free beside the store, for its indexes and for whoever else writes to the disk."""


def prepare(
    root: Path,
    *,
    store: Path | None = None,
    jobs: int | None = None,
    progress: ProgressCallback | None = None,
) -> Store:
    """Write the store of a competition folder, or find it current.

    Several callers on one folder wait for each other, and all but the first find the store current. A run
    that was killed is continued. When files were added or changed, only those are decoded. Bad input leaves
    nothing behind. What is about to be done, and the room it takes, is logged.

    Parameters
    ----------
    root : the competition folder; either split may be absent, and so may whole spectrogram folders. A test
        half with a defect in its table, its folders or a footer is left out, and a test file whose signal
        cannot be used is stored as NaN: only prediction needs them. Or a store, for the folder that it was
        made from; where that is gone, the store is used as it is
    store : where to put it; see :func:`hms_tune.data.store.store.store_path` for the default
    jobs : files decoded at once; one for each core when None
    progress : told how many of how many files are done, in the calling thread

    Raises
    ------
    DataError
        At a defect of the folder; ``hms-tune data check`` lists all of them.
    StoreError
        If the store cannot be written where it should go, or does not fit there.
    """
    root, jobs = Path(root), jobs or available_cores()
    if store is None and (root / MANIFEST).is_file():
        root, store = competition_of(root), root
        if not root.exists():
            _logger.info("%s is gone; its store is used as it is", root)
            return Store.open(store)
    competition, tables, files = _usable(root)
    sources = [Source.of(file) for file in files]
    target = store_path(root) if store is None else Path(store)
    _refuse_unwritable_name(target)
    digest = _source_digest(competition, sources)
    if _is_current(target, digest):
        return Store.open(target)
    _refuse_foreign(target)
    with _locked(target):
        if not _is_current(target, digest):  # another caller may just have written it
            _build(competition, tables, sources, target, digest, jobs=jobs, progress=progress)
    return Store.open(target)


def _usable(root: Path) -> tuple[Competition, Tables, list[SignalFile]]:
    """The halves that go into the store, their tables and their files."""
    try:
        return _read(Competition.open(root))
    except DataError as error:
        try:
            train = _read(Competition.open(root, splits=("train",)))
        except DataError:
            raise error from None
        _logger.warning(
            "the test half is left out, which training does without and `hms-tune predict` will refuse: %s",
            error,
        )
        return train


def _read(competition: Competition) -> tuple[Competition, Tables, list[SignalFile]]:
    tables = {split: competition.table(split) for split in competition.splits}
    files = [file for split in tables for file in list_signal_files(competition, split, tables[split])]
    refuse(missing_files(competition, files))
    if len(tables) == len(SPLITS):
        refuse([defect for file in files if file.split == "test" for defect in check_footer(file)[1]])
        collect_footers()
    return competition, tables, files


def _is_current(target: Path, source: str) -> bool:
    try:
        return Manifest.read(target).source == source and bool(Store.open(target))
    except StoreError:
        return False


def _source_digest(competition: Competition, sources: Sequence[Source]) -> str:
    """Digest of the tables' bytes and of each file's name, size and time of change."""
    digest = _tables_digest(competition)
    for source in sources:
        digest.update(f"{source.key} {source.size} {source.mtime_ns}\n".encode())
    return digest.hexdigest()


def _tables_digest(competition: Competition) -> hashlib._Hash:
    digest = hashlib.sha256(f"store format {FORMAT_VERSION}\n".encode())
    for split in competition.splits:
        digest.update(hashlib.sha256(competition.table_path(split).read_bytes()).digest())
    if (statement := competition.statement) != Statement():
        digest.update(f"{statement}\n".encode())
    return digest


def _refuse_unwritable_name(target: Path) -> None:
    """Parquet files are written by path, which their writers take in UTF-8 alone."""
    try:
        str(target).encode()
    except UnicodeEncodeError:
        shown = str(target).encode("utf-8", "backslashreplace").decode()
        hint = "Rename the folder, or name another --store."
        raise StoreError("the name of the folder is not UTF-8", where=shown, hint=hint) from None


def _refuse_foreign(target: Path) -> None:
    """Never replace a folder that is not ours."""
    if (
        target.exists()
        and not (target / MANIFEST).is_file()
        and (not target.is_dir() or any(target.iterdir()))
    ):
        raise StoreError(
            "this is there already and is not a store", where=target, hint="Name another --store."
        )


@contextmanager
def _locked(target: Path) -> Iterator[None]:
    """Hold the store's lock, with its parent folders; those made here go again if they stay empty."""
    made = [folder for folder in target.parents if not folder.exists()]
    try:
        private_folder(target.parent)
        with exclusive(target.with_name(target.name + ".lock")):
            yield
    except OSError as error:
        hint = "Name a writable place with --store, with enough room."
        raise StoreError(f"cannot be written: {error.strerror or error}", where=target, hint=hint) from error
    finally:
        for folder in made:
            with suppress(OSError):
                folder.rmdir()


def _build(
    competition: Competition,
    tables: Tables,
    sources: Sequence[Source],
    target: Path,
    digest: str,
    *,
    jobs: int,
    progress: ProgressCallback | None,
) -> None:
    partial = target.with_name(target.name + ".partial")
    if _is_current(partial, digest):  # killed between its last byte and its renaming
        _swap(partial, target)
        return
    older = _older_store(target, sources)
    reusable, folder = ({}, None) if older is None else (older.written, older.folder)
    places = place_files(sources, reusable, read_journal(partial / JOURNAL), jobs=jobs)
    _refuse_full_disk(target, partial, places)
    private_folder(partial, links=False)
    try:
        written = write_signals(partial, places, folder, jobs=jobs, progress=progress)
        _warn_of_unusable(written)
        for kind in KINDS:
            index_of(kind, written).to_parquet(partial / INDEXES[kind], index=False)
        for split, columns in TABLE_COLUMNS.items():
            table = tables[split] if split in tables else _no_rows(columns)
            table.to_parquet(partial / f"{split}.parquet", index=False)
        _manifest(competition, written, target, digest).write(partial)
        (partial / JOURNAL).unlink()
    except (DataError, OSError):
        shutil.rmtree(partial, ignore_errors=True)
        raise
    _swap(partial, target)


def _warn_of_unusable(written: Sequence[Written]) -> None:
    found = [entry.unusable for entry in written if entry.unusable is not None]
    if found:
        _logger.warning(
            "test files are left out, which training does without and `hms-tune predict` will refuse: %d; %s",
            len(found),
            found[0],
        )


def _older_store(target: Path, sources: Sequence[Source]) -> OlderStore | None:
    """The store that is there already, if slices of it can be used, and a word on what happens to it."""
    if not (target / MANIFEST).is_file():
        return None
    try:
        older = OlderStore.of(Store.open(target))
    except StoreError as error:
        _logger.info("%s; it is made anew", error)
        return None
    kept = sum(older.has(source) for source in sources)
    _logger.info(
        "%s does not match its folder: %d of %d files are new or changed and are decoded, %d are copied",
        target,
        len(sources) - kept,
        len(sources),
        kept,
    )
    return older


def _no_rows(columns: Sequence[Column]) -> pd.DataFrame:
    return pd.DataFrame({column.name: np.empty(0, dtype=np.int64) for column in columns})


def _refuse_full_disk(target: Path, partial: Path, places: Sequence[Place]) -> None:
    needed = sum(rows * row_bytes(kind) for kind, rows in rows_of_arrays(places).items())
    begun = [partial / name for name, _ in ARRAYS.values()]
    taken = sum(_BLOCK * path.stat().st_blocks for path in begun if path.is_file())
    free = shutil.disk_usage(target.parent).free
    what, there = f"the store takes {needed / 2**30:.2f} GiB", f"the disk has {free / 2**30:.2f} GiB free"
    if free + taken < needed + _SPARE_BYTES:
        hint = "Free some room, or name another disk with --store."
        raise StoreError(f"{what}, {there}", where=target, hint=hint)
    _logger.info("%s: %s, %s", target, what, there)


_BLOCK = 512
"""Bytes in which :attr:`os.stat_result.st_blocks` counts; arrays are as long as they will be, with holes."""


def _manifest(competition: Competition, written: Sequence[Written], target: Path, source: str) -> Manifest:
    digest = _tables_digest(competition)
    for entry in written:
        digest.update(f"{entry.key} {entry.rows} {entry.checksum} {entry.centre}\n".encode())

    def count(kind: str) -> dict[str, int]:
        return {split: sum(w.kind == kind and w.split == split for w in written) for split in SPLITS}

    return Manifest(
        source=source,
        digest=digest.hexdigest(),
        root=os.path.relpath(competition.root.resolve(), target.resolve()),
        n_samples=sum(entry.rows for entry in written if entry.kind == "eeg"),
        n_frames=sum(entry.rows for entry in written if entry.kind == "spectrogram"),
        recordings=count("eeg"),
        spectrograms=count("spectrogram"),
        clipped_samples=sum(entry.clipped for entry in written),
        source_sfreq=competition.statement.sampling_rate,
    )


def _swap(partial: Path, target: Path) -> None:
    """Put the finished store in place of an old one; processes that have the old one open keep it."""
    old = target.with_name(target.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.rename(old)
    partial.rename(target)
    shutil.rmtree(old, ignore_errors=True)
