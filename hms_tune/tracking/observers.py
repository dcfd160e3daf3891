"""The observers that a study file asks for, for a search and for an export alike."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from hms_tune.config.study_file import StudyFile
from hms_tune.machine.private_folder import private_folder
from hms_tune.training.observer import Observer


def trackers(
    study_file: StudyFile, folder: Path, *, best: Callable[[], float | None] | None = None
) -> list[Observer]:
    """Weights & Biases, unless the study file has it off.

    Parameters
    ----------
    folder : where runs are kept
    best : the study's best KL so far, in a search
    """
    from hms_tune.tracking.wandb import WandbObserver

    wandb = study_file.tracking.wandb
    if wandb.mode == "off":
        return []
    with suppress(OSError):  # W&B's session says so
        private_folder(folder)
    return [
        WandbObserver(
            project=wandb.project, entity=wandb.entity, mode=wandb.mode, directory=folder, best=best
        )
    ]
