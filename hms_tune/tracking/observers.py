"""The observers that a study file asks for, for a search and for an export alike."""

from __future__ import annotations

import platform
from collections.abc import Callable
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

from hms_tune.config.study_file import StudyFile
from hms_tune.machine.private_folder import private_folder
from hms_tune.studies.record_writer import Equipment
from hms_tune.training.observer import Observer
from hms_tune.version import __version__

_TOLD_PACKAGES = ("torch", "timm", "optuna")


def trackers(
    study_file: StudyFile,
    folder: Path,
    *,
    equipment: Equipment,
    best: Callable[[], float | None] | None = None,
) -> list[Observer]:
    """Weights & Biases, unless the study file has it off.

    Parameters
    ----------
    folder : where runs are kept
    equipment : where trials run and on which data, for those who compare runs
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
            wandb,
            directory=folder,
            facts=_facts(study_file, equipment),
            gpus=equipment.gpus,
            best=best,
        )
    ]


def _facts(study_file: StudyFile, equipment: Equipment) -> dict[str, Any]:
    """What else a result depends on: how it was searched, with which versions, on which device and data."""
    search = study_file.search
    return {
        "search": {
            "sampler": search.sampler,
            "scheduler": search.scheduler.name,
            "pruner": search.pruner.name,
            "seed": search.seed,
        },
        "versions": {
            "hms-tune": __version__,
            "python": platform.python_version(),
            **{package: metadata.version(package) for package in _TOLD_PACKAGES},
        },
        "device": {"name": equipment.device_name, "place": equipment.device, "gpus": equipment.gpus},
        "data_digest": equipment.data_digest,
    }
