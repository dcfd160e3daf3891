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
from contextlib import AbstractContextManager, suppress
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from optuna.artifacts.exceptions import ArtifactNotFound

from hms_tune.database.connect import Storage
from hms_tune.errors import ArtifactError
from hms_tune.machine.private_folder import folder_without_links, private_mode
from hms_tune.reports.dashboard.dashboard_private import artifact_key

_FOLDER = PurePosixPath("dashboard")
_IDENTITY = re.compile(r"[0-9A-Za-z-]+")


class DashboardFiles:
    """Files in a folder that others may write to, for optuna-dashboard.

    No link below ``artifacts`` is followed, not even one that stands in for the folder itself.
    """

    def __init__(self, artifacts: Path) -> None:
        self._artifacts = artifacts

    def open_reader(self, artifact_id: str) -> BinaryIO:
        """Open a regular file."""
        name = _checked(artifact_id)
        try:
            with self._folder() as folder:
                handle = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
        except OSError as error:
            raise ArtifactNotFound("not found") from error
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            os.close(handle)
            raise ArtifactNotFound("not found")
        return os.fdopen(handle, "rb")

    def write(self, artifact_id: str, content_body: BinaryIO) -> None:
        """Write a new file and rename it: whatever had the name, a link too, is replaced and not followed.

        Raises
        ------
        ArtifactError
            If it cannot be written.
        """
        name = _checked(artifact_id)
        try:
            with self._folder(make=True) as folder:
                _write(folder, name, content_body)
        except OSError as error:
            raise ArtifactError(
                f"cannot be written to ({error.strerror or error})",
                where=self._artifacts / _FOLDER,
                hint="It has to be a folder, and no link; check HMS_TUNE_ARTIFACTS and the room there",
            ) from error

    def remove(self, artifact_id: str) -> None:
        """Remove a file, or the link that stands in for it."""
        name = _checked(artifact_id)
        try:
            with self._folder() as folder:
                os.unlink(name, dir_fd=folder)
        except OSError as error:
            raise ArtifactNotFound("not found") from error

    def _folder(self, *, make: bool = False) -> AbstractContextManager[int]:
        return folder_without_links(self._artifacts, _FOLDER, make=make)


def _checked(artifact_id: str) -> str:
    if not _IDENTITY.fullmatch(artifact_id):
        raise ArtifactNotFound("not found")
    return artifact_id


def _write(folder: int, name: str, content: BinaryIO) -> None:
    partial = f"{uuid.uuid4()}.partial"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    try:
        with os.fdopen(os.open(partial, flags, private_mode(folder), dir_fd=folder), "wb") as file:
            shutil.copyfileobj(content, file)
        os.replace(partial, name, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        with suppress(OSError):
            os.unlink(partial, dir_fd=folder)
        raise


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
