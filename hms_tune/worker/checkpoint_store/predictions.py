"""Out-of-fold predictions of every complete trial, kept beside the checkpoints.

``<study>/out-of-fold/trial-<number>.npz``, compressed, in half precision. They go with the study
(``hms-tune study delete``).
"""

from __future__ import annotations

import re
import tempfile
import zipfile
import zlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hms_tune.errors import ArtifactError
from hms_tune.machine.regular_file import open_regular
from hms_tune.studies.predictions import arrays_of, checked_predictions
from hms_tune.training.events import OutOfFold
from hms_tune.worker.checkpoint_store.files import ObjectStore

_KEY = re.compile(r"[^/]+/out-of-fold/trial-(\d+)\.npz")
_DAMAGED = (zipfile.BadZipFile, zlib.error, MemoryError)

_HALF = ("probabilities", "targets")
"""Kept as float16, which tells shares of votes and probabilities to three digits."""


@dataclass(frozen=True, slots=True)
class KeptPredictions:
    """The out-of-fold predictions of one study's trials."""

    store: ObjectStore
    study: str

    def keep(self, trial: int, predictions: OutOfFold) -> None:
        """Keep those of a trial, in place of what was kept of it.

        Raises
        ------
        ArtifactError
            If the store cannot take them.
        """
        arrays = arrays_of(predictions)
        arrays |= {name: arrays[name].astype(np.float16) for name in _HALF}
        with tempfile.TemporaryDirectory(prefix="hms-tune-") as scratch:
            path = Path(scratch) / "predictions.npz"
            np.savez_compressed(path, allow_pickle=False, **arrays)
            self.store.put(self._key(trial), path)

    def of(self, trial: int) -> OutOfFold:
        """Those of a trial; probabilities and targets as float32, each row summing to 1.

        Raises
        ------
        ArtifactError
            If they are not there, damaged, or the store does not answer.
        """
        with tempfile.TemporaryDirectory(prefix="hms-tune-") as scratch:
            path = Path(scratch) / "predictions.npz"
            self.store.fetch(self._key(trial), path)
            try:
                with open_regular(path) as file:
                    found = checked_predictions(file)
            except (OSError, ValueError, LookupError, TypeError, RuntimeError, *_DAMAGED) as error:
                raise ArtifactError("is damaged", where=self._key(trial), hint="Export the trial") from error
        return replace(found, probabilities=_whole(found.probabilities), targets=_whole(found.targets))

    def trials(self) -> frozenset[int]:
        """Numbers of the trials whose predictions are kept.

        Raises
        ------
        ArtifactError
            If the store does not answer.
        """
        return frozenset(int(match[1]) for key in self._keys() if (match := _KEY.fullmatch(key)))

    def remove_all(self) -> None:
        """Delete them all."""
        self.store.remove([key for key in self._keys() if _KEY.fullmatch(key)])

    def _keys(self) -> list[str]:
        return list(self.store.sizes(f"{self.study}/out-of-fold/"))

    def _key(self, trial: int) -> str:
        return f"{self.study}/out-of-fold/trial-{trial}.npz"


def _whole(half: NDArray[np.float32]) -> NDArray[np.float32]:
    """In single precision, each row summing to 1."""
    whole = half.astype(np.float32)
    summed: NDArray[np.float32] = whole / np.maximum(
        whole.sum(axis=1, keepdims=True), np.finfo(np.float32).tiny
    )
    return summed
