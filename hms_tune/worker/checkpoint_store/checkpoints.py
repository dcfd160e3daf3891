"""Where the checkpoints of a study's trials lie, so that any machine can continue any trial.

A trial trains in a directory of its own machine. Each checkpoint is brought from there to the fleet's store
(``HMS_TUNE_ARTIFACTS``: a folder or ``s3://``) as ``<study>/trial-<first attempt>/attempt-<number>/…``: an
attempt that lost its lease can overwrite nothing of its successor's. The successor begins with the newest
checkpoint of the latest attempt that has a whole one. Whoever trains one fold for the trial's attempt writes
to ``<study>/trial-<first attempt>/fold-<fold>-attempt-<lease>/…``.
"""

from __future__ import annotations

import logging
import re
import shutil
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from hms_tune.database.connection.retry import Patience
from hms_tune.errors import ArtifactError, CheckpointError
from hms_tune.machine.private_folder import private_folder
from hms_tune.training.checkpoint import verify_checkpoint
from hms_tune.worker.checkpoint_store.files import ObjectStore, open_store
from hms_tune.worker.checkpoint_store.uploads import Uploader

_logger = logging.getLogger(__name__)

STORE_S = 600.0
"""How long a store that does not answer is waited for before a trial begins, s."""

FLUSH_S = 8.0
"""How long the end of an attempt waits for its last checkpoint to be stored, s."""

_CHECKPOINT = re.compile(r".*/(?:fold-(\d+)-)?attempt-(\d+)/(checkpoint-\d+\.pt)")


@dataclass(frozen=True, slots=True)
class AttemptFiles:
    """Where one attempt writes its checkpoints, and what uploads them to the store."""

    directory: Path
    uploads: Uploader


@dataclass(frozen=True, slots=True)
class Artifacts:
    """The artifacts of one study.

    ``store`` is shared by the fleet; ``scratch`` is this machine's own.
    """

    store: ObjectStore
    scratch: Path
    study: str

    @classmethod
    def at(cls, location: str | Path, scratch: Path, study: str) -> Self:
        """Artifacts in a folder or at ``s3://bucket/prefix``.

        Raises
        ------
        UsageError
            If the location is of another kind, or boto3 is missing.
        """
        return cls(open_store(location), scratch, study)

    @contextmanager
    def files_of(
        self,
        trial: int,
        attempt: int,
        *,
        allowed: Callable[[], bool],
        patience: Patience | None = None,
        fold: int | None = None,
    ) -> Iterator[AttemptFiles]:
        """The directory of an attempt, with the newest checkpoint of the attempts before it in place.

        Parameters
        ----------
        trial, attempt : numbers of the trial's first attempt and of this one; of help with a fold its lease's
        fold : the only one that is trained; None: the trial is
        allowed : whether the attempt may upload now
        patience : how long a store that does not answer is waited for

        Raises
        ------
        ArtifactError
            If it stayed away: beginning again would throw away what is there. Or if this machine's own disk
            is full.
        """
        of_fold = "" if fold is None else f"fold-{fold}-"
        prefix = f"{self._prefix(trial)}{of_fold}attempt-{attempt:06d}/"
        directory = self.scratch / prefix
        shutil.rmtree(directory, ignore_errors=True)
        _make(directory)
        try:
            if fold is not None or attempt != trial:
                _through_absence(
                    lambda: self._fetch_newest(trial, fold, attempt, directory),
                    patience or Patience(most_s=STORE_S),
                )
            with Uploader(self.store, prefix, allowed=allowed) as uploads:
                yield AttemptFiles(directory, uploads)
        finally:
            shutil.rmtree(directory, ignore_errors=True)

    def fetch_fold(self, trial: int, fold: int, path: Path) -> bool:
        """Bring the newest whole checkpoint of a fold that others trained here; returns whether there is one.

        Raises
        ------
        ArtifactError
            If the store does not answer.
        """
        return any(self._fetch(key, path) for _, key in self._found(trial, fold))

    def has(self, trial: int) -> bool:
        """Whether a trial's own checkpoints are in this store.

        Raises
        ------
        ArtifactError
            If the store does not answer.
        """
        return bool(self._found(trial, None))

    def remove(self, trials: Collection[int]) -> None:
        """Delete the checkpoints of trials that have ended. What cannot be deleted is named and left."""
        for trial in trials:
            shutil.rmtree(self.scratch / self._prefix(trial), ignore_errors=True)
            self.remove_stored(trial)

    def remove_stored(self, trial: int) -> None:
        """Delete what the store has of a trial; if a slot has just taken it up, its own files stay."""
        try:
            self.store.remove(self._checkpoints(self._prefix(trial)))
        except ArtifactError as error:
            _logger.warning("%s", error)

    def remove_all(self) -> None:
        """Delete all checkpoints of the study; what else somebody keeps there stays."""
        shutil.rmtree(self.scratch / self.study, ignore_errors=True)
        self.store.remove(self._checkpoints(f"{self.study}/"))

    def present(self) -> frozenset[int]:
        """Trials that have checkpoints, here or in the store. None are seen in a store that is away."""
        try:
            keys = list(self.store.sizes(f"{self.study}/"))
        except ArtifactError as error:
            _logger.warning("%s", error)
            keys = []
        names = [key.split("/")[1] for key in keys]
        names += [path.name for path in (self.scratch / self.study).glob("trial-*")]
        numbers = (name.removeprefix("trial-") for name in names if name.startswith("trial-"))
        return frozenset(int(number) for number in numbers if number.isdecimal())

    def bytes_by_trial(self) -> dict[int, int]:
        """How much the checkpoints of each trial take in the store. Nothing is seen in one that is away."""
        try:
            sizes = self.store.sizes(f"{self.study}/")
        except ArtifactError as error:
            _logger.warning("%s", error)
            return {}
        found: dict[int, int] = {}
        for key, size in sizes.items():
            if _CHECKPOINT.fullmatch(key):
                trial = int(key.split("/")[1].removeprefix("trial-"))
                found[trial] = found.get(trial, 0) + size
        return found

    def _prefix(self, trial: int) -> str:
        return f"{self.study}/trial-{trial}/"

    def _checkpoints(self, prefix: str) -> list[str]:
        return [key for key in self.store.sizes(prefix) if _CHECKPOINT.fullmatch(key)]

    def _fetch_newest(self, trial: int, fold: int | None, attempt: int, directory: Path) -> None:
        """Bring the newest whole checkpoint of earlier attempts here."""
        for number, key in self._found(trial, fold):
            if number < attempt and self._fetch(key, directory / key.rpartition("/")[2]):
                return

    def _found(self, trial: int, fold: int | None) -> list[tuple[int, str]]:
        """Attempts and keys of the checkpoints of a trial, or of help with one of its folds, newest first."""
        found = [
            (int(match[2]), key)
            for key in self.store.sizes(self._prefix(trial))
            if (match := _CHECKPOINT.fullmatch(key)) and match[1] == (None if fold is None else str(fold))
        ]
        return sorted(found, reverse=True)

    def _fetch(self, key: str, path: Path) -> bool:
        """Bring a checkpoint here; one that is damaged is named."""
        try:
            self.store.fetch(key, path)
            verify_checkpoint(path)
        except (ArtifactError, CheckpointError) as error:
            _logger.warning("%s; falling back on the one before", error)
            path.unlink(missing_ok=True)
            return False
        return True


def _make(directory: Path) -> None:
    try:
        private_folder(directory)
    except OSError as error:
        raise ArtifactError(
            f"cannot be made ({error.strerror or error})",
            where=directory,
            hint="Make room there, or set HMS_TUNE_HOME to another place",
        ) from error


def _through_absence(work: Callable[[], None], patience: Patience) -> None:
    started = time.monotonic()
    while True:
        try:
            return work()
        except ArtifactError as error:
            if patience.over(time.monotonic() - started):
                raise
            _logger.warning("%s; trying again", error)
            patience.sleep(5.0)
