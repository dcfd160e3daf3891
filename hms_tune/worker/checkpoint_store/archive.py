"""A study in one file: to go on with it elsewhere, to keep it, to send it to a colleague.

The file is a zip archive: ``study.json`` says what it holds, ``rows/TABLE.jsonl`` has a table's rows, one in
each line, and ``artifacts/…`` the checkpoints that trials go on from and the out-of-fold predictions that are
kept. Nothing in it is run or unpickled: rows are JSON, and a checkpoint is judged when a trial opens it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hms_tune.config.study_file import STUDY_NAME
from hms_tune.database.connect import Storage, Transaction
from hms_tune.database.queries import archive
from hms_tune.errors import ArtifactError, StorageError, UsageError
from hms_tune.studies.lookup import find_study
from hms_tune.version import __version__
from hms_tune.worker.checkpoint_store.files import ObjectStore

_FORMAT = 1
_HEAD = "study.json"
_ARTIFACTS = "artifacts/"
_ARTIFACT = re.compile(
    r"artifacts/(trial-\d+/(?:fold-\d+-)?attempt-\d+/checkpoint-\d+(\.pt)|out-of-fold/trial-\d+\.npz)"
)
"""Out-of-fold predictions, which blends are chosen by, go with the checkpoints."""


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
    """
    study_id = find_study(storage, study)
    with _appearing(file) as partial, zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as written:
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
        trials = rows["trials"] + rows["optuna_trials"] - bound
        head = {
            "format": _FORMAT,
            "study": study,
            "revision": revision,
            "hms_tune": __version__,
            "saved_at": datetime.now(UTC).isoformat(),
            "trials": trials,
            "attempts": rows["optuna_trials"],
            "checkpoints": checkpoints,
        }
        written.writestr(_HEAD, json.dumps(head, indent=2) + "\n")
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
    with _opened(file) as read:
        head = json.loads(read.read(_HEAD))
        study = head["study"]
        if head["format"] != _FORMAT or not STUDY_NAME.fullmatch(study):
            raise UsageError("this is no study that this version knows", where=file, hint=_WRITE_IT)
        rows = {
            table.name: [json.loads(line) for line in read.open(f"rows/{table.name}.jsonl")]
            for table in archive.TABLES
        }
        (own,) = rows["optuna_studies"]
        if own["study_name"] != study:
            raise UsageError("its parts are of different studies", where=file, hint=_WRITE_IT)
        with storage.transaction() as connection:
            _check_room(connection, head, file)
        # Nobody may see the study before its checkpoints are there: a trial would begin again.
        checkpoints = _load_artifacts(store, study, read)
        with storage.setup_lock(), storage.transaction() as connection:
            _check_room(connection, head, file)
            archive.insert_rows(connection, rows)
    return Archived(study, int(head["trials"]), len(rows["optuna_trials"]), checkpoints)


_WRITE_IT = "Write it with hms-tune study save STUDY FILE"


def _check_room(connection: Transaction, head: dict[str, Any], file: Path) -> None:
    """Refuse a file that does not fit the database."""
    study, revision = head["study"], archive.revision(connection)
    if revision != head["revision"]:
        raise StorageError(
            f"its tables are of revision {head['revision']}, those of the database of {revision}",
            where=file,
            hint=f"Load it with hms-tune {head['hms_tune']}; a newer version brings that database up to date",
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
        name = _ARTIFACTS + key.removeprefix(f"{study}/")
        if not (match := _ARTIFACT.fullmatch(name)):
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


def _load_artifacts(store: ObjectStore, study: str, read: zipfile.ZipFile) -> int:
    names = [match for name in read.namelist() if (match := _ARTIFACT.fullmatch(name))]
    for match in names:
        with tempfile.TemporaryDirectory(prefix="hms-tune-") as folder:
            unpacked = Path(folder, "checkpoint.pt")
            with read.open(match[0]) as source, unpacked.open("wb") as target:
                shutil.copyfileobj(source, target, 1 << 20)
            store.put(f"{study}/{match[1]}", unpacked)
    return sum(match[2] is not None for match in names)


@contextmanager
def _opened(file: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(file) as read:
            yield read
    except FileNotFoundError:
        raise UsageError("there is no such file", where=file, hint=_WRITE_IT) from None
    except (zipfile.BadZipFile, KeyError, ValueError) as error:
        raise UsageError(f"this is no whole study ({error})", where=file, hint=_WRITE_IT) from error


@contextmanager
def _appearing(file: Path) -> Iterator[Path]:
    """A file beside the one named, which takes its place at the end."""
    handle, name = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)
    os.close(handle)
    try:
        yield Path(name)
        os.replace(name, file)
    finally:
        with suppress(FileNotFoundError):
            Path(name).unlink()
