"""Files that the dashboard shows beside trials."""

from __future__ import annotations

import io
import json
import mimetypes
import uuid
from pathlib import Path

from optuna.artifacts import FileSystemArtifactStore

from hms_tune.database.connect import Storage
from hms_tune.reports.dashboard.dashboard_private import artifact_key

_FOLDER = "dashboard"
_NAMESPACE = uuid.UUID("0d4f8f0e-6a57-4a5c-9a53-1c1a0d2b7c55")


def dashboard_store(artifacts: Path) -> FileSystemArtifactStore:
    """The store under the fleet's artifacts, to read from; nothing is made on disk."""
    return FileSystemArtifactStore(str(artifacts / _FOLDER))


def writable_store(artifacts: Path) -> FileSystemArtifactStore:
    """The same, to write to."""
    (artifacts / _FOLDER).mkdir(parents=True, exist_ok=True)
    return dashboard_store(artifacts)


def attach(
    storage: Storage, store: FileSystemArtifactStore, study_id: int, number: int, name: str, content: bytes
) -> None:
    """Show a file on a trial's page; attached again, it is replaced.

    Optuna lets nothing be added to a finished trial, and a new best is known only when it has finished. The
    dashboard itself keeps what is added later in the study, under this key.
    """
    trial_id = storage.optuna.get_trial_id_from_study_id_trial_number(study_id, number)
    identity = str(uuid.uuid5(_NAMESPACE, f"{study_id}/{number}/{name}"))
    store.write(identity, io.BytesIO(content))
    described = {
        "artifact_id": identity,
        "filename": name,
        "mimetype": mimetypes.guess_type(name)[0] or "application/octet-stream",
        "encoding": None,
    }
    storage.optuna.set_study_system_attr(study_id, artifact_key(trial_id, identity), json.dumps(described))
