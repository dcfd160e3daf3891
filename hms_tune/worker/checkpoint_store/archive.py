"""A study in one file: to go on with it elsewhere, to keep it, to send it to a colleague.

The file is a zip archive: ``study.json`` says what it holds, ``rows/TABLE.jsonl`` has a table's rows, one in
each line, and ``artifacts/…`` the checkpoints that trials go on from and the out-of-fold predictions that are
kept. Nothing in it is run or unpickled: rows are JSON, and a checkpoint is judged when a trial opens it.
"""

from __future__ import annotations

import json
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from hms_tune.database.connect import Storage, Transaction
from hms_tune.database.queries import archive
from hms_tune.errors import ArtifactError, StorageError, UsageError
from hms_tune.machine.regular_file import appearing
from hms_tune.studies.lookup import find_study
from hms_tune.version import __version__
from hms_tune.worker.checkpoint_store.archive_file import (
    ARTIFACT,
    ARTIFACTS,
    FORMAT,
    HEAD,
    ArchiveFile,
    Head,
    opened,
    write_it,
)
from hms_tune.worker.checkpoint_store.files import ObjectStore
from hms_tune.worker.checkpoint_store.loaded_study import check_loaded


@dataclass(frozen=True, slots=True)
class Archived:
    """What a file holds. ``attempts`` are Optuna's trials, ``checkpoints`` files.

    What a script added with Optuna is a trial of one attempt.
    """

    study: str
    trials: int
    attempts: int
    checkpoints: int


def save_study(storage: Storage, store: ObjectStore, study: str, file: Path) -> Archived:
    """Write a study with its trials, records and checkpoints; the file appears when it is whole.

    It is the study of one moment. Workers may go on meanwhile: where it is loaded, the trials they were at go
    on from their last checkpoints.

    Raises
    ------
    UnknownStudyError
        If there is no such study.
    StorageError
        If another program made it.
    ArtifactError
        If the checkpoints cannot be read.
    HmsTuneError
        If the file cannot be written.
    """
    study_id = find_study(storage, study)
    with (
        appearing(file, named_by="FILE") as partial,
        zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as written,
    ):
        rows: dict[str, int] = {}
        bound = 0
        with archive.one_moment(storage) as connection:
            revision = archive.revision(connection)
            for table, content in archive.study_rows(connection, study_id):
                rows[table] = 0
                with written.open(f"rows/{table}.jsonl", "w", force_zip64=True) as lines:
                    for row in content:
                        lines.write(json.dumps(row).encode() + b"\n")
                        rows[table] += 1
                        bound += table == "attempts" and row["optuna_trial_id"] is not None
        checkpoints = _save_artifacts(store, study, written)
        trials = _trials(rows | {"bound": bound})
        head = {
            "format": FORMAT,
            "study": study,
            "revision": revision,
            "hms_tune": __version__,
            "saved_at": datetime.now(UTC).isoformat(),
            "trials": trials,
            "attempts": rows["optuna_trials"],
            "checkpoints": checkpoints,
        }
        written.writestr(HEAD, json.dumps(head, indent=2) + "\n")
    return Archived(study, trials, rows["optuna_trials"], checkpoints)


def load_study(storage: Storage, store: ObjectStore, file: Path) -> Archived:
    """Write the study of a file into a database that has none of its name.

    Raises
    ------
    UsageError
        If the file holds no study, or the database has one of that name.
    StorageError
        If the file is of another revision of the tables.
    ArtifactError
        If its checkpoints cannot be stored.
    """
    with opened(file) as read:
        with storage.transaction() as connection:
            _write(connection, read)
            connection.rollback()  # nobody may see the study before its checkpoints are there
        with _stored(store, read) as checkpoints, storage.setup_lock(), storage.transaction() as connection:
            counts = _write(connection, read)
    return Archived(read.head.study, _trials(counts), counts["optuna_trials"], checkpoints)


def _write(connection: Transaction, read: ArchiveFile) -> dict[str, int]:
    """Write the rows, and make sure that they can be read; returns how many each table got."""
    _check_room(connection, read.head, read.path)
    bound = 0

    def rows(table: str) -> Iterator[archive.Row]:
        nonlocal bound
        for row in read.rows(table):
            bound += table == "attempts" and row.get("optuna_trial_id") is not None
            yield row

    try:
        study_id, counts = archive.insert_rows(connection, rows)
        check_loaded(connection, study_id, read.head.study)
    except archive.RowsError as error:
        what = f"this is no whole study ({error})"
        raise UsageError(what, where=read.path, hint=write_it(read.path)) from error
    return counts | {"bound": bound}


def _trials(counts: dict[str, int]) -> int:
    return counts["trials"] + counts["optuna_trials"] - counts["bound"]


def _check_room(connection: Transaction, head: Head, file: Path) -> None:
    """Refuse a file that does not fit the database."""
    study, revision = head.study, archive.revision(connection)
    if revision != head.revision:
        raise StorageError(
            f"its tables are of revision {head.revision}, those of the database of {revision}",
            where=file,
            hint=f"Load it with hms-tune {head.hms_tune}; a newer version brings that database up to date",
        )
    if archive.has_study(connection, study):
        raise UsageError(
            f'the database has a study "{study}" already',
            where=file,
            hint=f"Delete that one first (hms-tune study delete {study}), or load into another database",
        )


def _save_artifacts(store: ObjectStore, study: str, written: zipfile.ZipFile) -> int:
    saved = 0
    for key in store.sizes(f"{study}/"):
        name = ARTIFACTS + key.removeprefix(f"{study}/")
        if not (match := ARTIFACT.fullmatch(name)):
            continue
        with tempfile.TemporaryDirectory(prefix="hms-tune-") as folder:
            fetched = Path(folder, "checkpoint.pt")
            try:
                store.fetch(key, fetched)
            except ArtifactError:
                if key in store.sizes(f"{study}/"):
                    raise
                continue  # its trial has gone on
            written.write(fetched, name, zipfile.ZIP_STORED)
        saved += match[2] is not None
    return saved


@contextmanager
def _stored(store: ObjectStore, read: ArchiveFile) -> Iterator[int]:
    """Store the checkpoints, and count them; if the block fails, those that were not there are removed.

    Raises
    ------
    ArtifactError
        If the store has no room for them, or another content under one of their names.
    """
    study = read.head.study
    there = store.sizes(f"{study}/")
    wanted = {f"{study}/{each.filename.removeprefix(ARTIFACTS)}": each for each in read.artifacts}
    for key, artifact in wanted.items():
        if there.get(key, artifact.file_size) != artifact.file_size:
            raise ArtifactError(
                "is there already with another content",
                where=key,
                hint=f"Of another study {study}? Set HMS_TUNE_ARTIFACTS to another place, or remove it",
            )
    fresh = {key: artifact for key, artifact in wanted.items() if key not in there}
    needed, room = sum(each.file_size for each in fresh.values()), store.room()
    if room is not None and needed > room:
        raise ArtifactError(
            f"its checkpoints take {needed:,} bytes, and there is room for {room:,}",
            where=read.path,
            hint="Make room, or set HMS_TUNE_ARTIFACTS to another place",
        )
    begun: list[str] = []
    try:
        for key, artifact in fresh.items():
            with tempfile.TemporaryDirectory(prefix="hms-tune-") as folder:
                unpacked = Path(folder, "checkpoint.pt")
                read.unpack(artifact, unpacked)
                begun.append(key)
                store.put(key, unpacked)
        yield sum(each.filename.endswith(".pt") for each in read.artifacts)
    except OSError as error:
        store.remove(begun)
        what = f"a checkpoint cannot be unpacked ({error.strerror or error})"
        raise ArtifactError(what, where=tempfile.gettempdir(), hint="Make room there") from error
    except BaseException:
        store.remove(begun)
        raise
