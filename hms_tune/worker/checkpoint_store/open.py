"""The store at an address. A new kind of store is named here."""

from __future__ import annotations

from pathlib import Path

from hms_tune.errors import UsageError
from hms_tune.worker.checkpoint_store.files import DirectoryStore, ObjectStore
from hms_tune.worker.checkpoint_store.s3 import S3Store


def open_store(location: str | Path) -> ObjectStore:
    """The store at a folder or an ``s3://bucket/prefix``.

    Raises
    ------
    UsageError
        If it is an address of another kind, or boto3 is missing.
    """
    text = str(location)
    if text.startswith("s3://"):
        return S3Store.at(text)
    if "://" in text:
        raise UsageError(
            f"{text.partition('://')[0]}:// cannot hold artifacts",
            where="HMS_TUNE_ARTIFACTS",
            hint="Name a folder that all machines share, or s3://BUCKET/PREFIX",
        )
    return DirectoryStore(Path(text))
