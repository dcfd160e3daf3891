"""Where the checkpoints of a study's trials lie: ``<root>/<study>/trial-<number of the first attempt>/``.

The root is shared by the fleet (``HMS_TUNE_ARTIFACTS``), so that any worker can continue any trial.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Artifacts:
    """The folder of one study."""

    root: Path
    study: str

    @property
    def folder(self) -> Path:
        """All of the study's directories."""
        return self.root / self.study

    def checkpoints(self, lineage: int) -> Path:
        """The checkpoint directory of a trial, the same for all its attempts."""
        return self.folder / f"trial-{lineage}"

    def remove(self, lineages: Collection[int]) -> None:
        """Delete the checkpoints of trials that have ended. What cannot be deleted is named and left."""
        for lineage in lineages:
            directory = self.checkpoints(lineage)
            try:
                shutil.rmtree(directory)
            except FileNotFoundError:
                continue
            except OSError as error:
                _logger.warning("%s could not be removed: %s", directory, error.strerror)

    def present(self) -> frozenset[int]:
        """Trials that have a checkpoint directory."""
        names = (path.name.removeprefix("trial-") for path in self.folder.glob("trial-*"))
        return frozenset(int(name) for name in names if name.isdecimal())
