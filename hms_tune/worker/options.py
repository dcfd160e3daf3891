"""What ``hms-tune worker`` was asked, and what one slot of it is."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from hms_tune.config.acceleration import Acceleration
from hms_tune.config.settings import DEFAULT_CHECKPOINT_SECONDS, DEFAULT_LEASE_SECONDS
from hms_tune.config.study_file import StudyFile
from hms_tune.data.identity import DataIdentity
from hms_tune.training.distributed.group import RankPlace


@dataclass(frozen=True, slots=True)
class WorkerOptions:
    """What ``hms-tune worker`` was asked: made by the command, and read by every process of the worker.

    ``storage`` is the database's address; None: the embedded server under ``home``, where tracking keeps its
    files too. ``artifacts`` is a folder or ``s3://bucket/prefix``. ``device`` is auto, cpu, or devices
    separated by commas; ``ranks_per_trial`` of them train one trial together. ``slots_per_device`` is a
    number, or auto: as many as measurably pay.
    """

    study_file: StudyFile
    storage: str | None = field(repr=False)
    home: Path
    data_root: Path
    artifacts: str | Path
    device: str = "auto"
    slots_per_device: int | Literal["auto"] = 1
    ranks_per_trial: int = 1
    max_trials: int | None = None
    acceleration: Acceleration = "auto"
    lease_s: float = DEFAULT_LEASE_SECONDS
    checkpoint_s: float = DEFAULT_CHECKPOINT_SECONDS


@dataclass(frozen=True, slots=True)
class SlotPlan:
    """One slot. It crosses to the slot's process over a pipe, so the database's password stays out of sight.

    Attributes
    ----------
    storage_url : the database's address, also of an embedded server
    devices : where each rank of its trials computes, the slot's own process first
    memory_share : the slot's part of its device's memory; several slots may share one
    gpus : how many GPUs it occupies; 0 on the CPU
    threads : of the CPU; None: as many as torch likes
    place : which rank the slot's process is; None: it trains alone
    data : what tells its worker's data from others
    """

    options: WorkerOptions
    storage_url: str = field(repr=False)
    worker_id: str
    slot: str
    devices: tuple[str, ...]
    memory_share: float
    gpus: float
    threads: int | None
    place: RankPlace | None
    data: DataIdentity | None = None

    @property
    def device(self) -> str:
        """Where the slot's own process computes."""
        return self.devices[0]
