"""Files that the dashboard shows beside trials."""

from __future__ import annotations

import io
import json
import mimetypes
import os
import re
import shutil
import stat
import uuid
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from optuna.artifacts.exceptions import ArtifactNotFound

from hms_tune.database.connect import Storage
from hms_tune.machine.private_folder import private_folder
from hms_tune.reports.dashboard.dashboard_private import artifact_key

_FOLDER = "dashboard"
_IDENTITY = re.compile(r"[0-9A-Za-z-]+")


class DashboardFiles:
    """Files in a folder that others may write to, for optuna-dashboard: no link in it is followed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def open_reader(self, artifact_id: str) -> BinaryIO:
        """Open a regular file."""
        try:
            handle = os.open(self._path(artifact_id), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError as error:
            raise ArtifactNotFound("not found") from error
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            os.close(handle)
            raise ArtifactNotFound("not found")
        return os.fdopen(handle, "rb")

    def write(self, artifact_id: str, content_body: BinaryIO) -> None:
        """Write a new file and rename it: whatever had the name, a link too, is replaced and not followed."""
        path = self._path(artifact_id)
        partial = path.with_name(f"{uuid.uuid4()}.partial")
        try:
            with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                shutil.copyfileobj(content_body, file)
            partial.replace(path)
        except BaseException:
            with suppress(OSError):
                partial.unlink()
            raise

    def remove(self, artifact_id: str) -> None:
        """Remove a file, or the link that stands in for it."""
        try:
            self._path(artifact_id).unlink()
        except OSError as error:
            raise ArtifactNotFound("not found") from error

    def _path(self, artifact_id: str) -> Path:
        if not _IDENTITY.fullmatch(artifact_id):
            raise ArtifactNotFound("not found")
        return self._folder / artifact_id


def dashboard_store(artifacts: Path) -> DashboardFiles:
    """The store under the fleet's artifacts, to read from; nothing is made on disk."""
    return DashboardFiles(artifacts / _FOLDER)


def writable_store(artifacts: Path) -> DashboardFiles:
    """The same, to write to."""
    private_folder(artifacts / _FOLDER)
    return dashboard_store(artifacts)


def attach(
    storage: Storage, store: DashboardFiles, study_id: int, number: int, name: str, content: bytes
) -> None:
    """Show a file on a trial's page; attached again, it is replaced.

    Optuna lets nothing be added to a finished trial, and a new best is known only when it has finished. The
    dashboard itself keeps what is added later in the study, under this key. The file's address is random:
    a page elsewhere that could compute it might show the picture.
    """
    trial_id = storage.optuna.get_trial_id_from_study_id_trial_number(study_id, number)
    identity = _attached(storage.optuna.get_study_system_attrs(study_id), trial_id, name)
    if identity is None:
        identity = str(uuid.uuid4())
        described = {
            "artifact_id": identity,
            "filename": name,
            "mimetype": mimetypes.guess_type(name)[0] or "application/octet-stream",
            "encoding": None,
        }
        # Before the file: if this process dies between the two, the next one finds the address here.
        storage.optuna.set_study_system_attr(
            study_id, artifact_key(trial_id, identity), json.dumps(described)
        )
    store.write(identity, io.BytesIO(content))


def _attached(attributes: Mapping[str, Any], trial_id: int, name: str) -> str | None:
    """The address of a trial's file of this name, if it has one."""
    prefix = artifact_key(trial_id, "")
    described = (json.loads(value) for key, value in attributes.items() if key.startswith(prefix))
    return next((each["artifact_id"] for each in described if each and each["filename"] == name), None)
