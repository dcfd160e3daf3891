"""Training in a slot's process, and in those of its further ranks: the device, the data, the ranks' group."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import torch

from hms_tune.config.acceleration import AccelerationSettings
from hms_tune.config.trial import TrialConfig
from hms_tune.data.store.prepare import prepare
from hms_tune.machine.device import resolve_device
from hms_tune.machine.json_cache import JsonCache
from hms_tune.search.memory_check import check_memory
from hms_tune.search.reports import RungWatch, rungs_of
from hms_tune.training.cross_validation import CrossValidation
from hms_tune.training.distributed.group import RankPlace, join
from hms_tune.training.distributed.ranks import ALONE
from hms_tune.training.events import CheckpointWritten, Event
from hms_tune.training.rank_trials import TrialRequest, dismiss, follow_trials, lead_trial
from hms_tune.training.workspace import Workspace
from hms_tune.worker.options import SlotPlan
from hms_tune.worker.stop import Stop


class Trainer:
    """Trains trials on a slot's device, alone or as the first of several ranks.

    Attributes
    ----------
    data_digest : of the prepared data

    Raises
    ------
    MemoryPlanError
        If the device has no room for any trial of the study.
    RankLostError
        If the other ranks do not come.
    """

    def __init__(self, plan: SlotPlan, stop: Stop) -> None:
        options = plan.options
        if plan.threads is not None:
            torch.set_num_threads(plan.threads)
        self._device = resolve_device(plan.device)
        store = prepare(options.data_root)
        self.data_digest = store.manifest.digest
        self._group = None if plan.place is None else join(plan.place, self._device)
        self._workspace = Workspace(
            store,
            self._device,
            _acceleration(plan),
            ranks=ALONE if self._group is None else self._group.ranks,
            share=plan.memory_share,
            ratios=JsonCache(options.home / "memory.json"),
        )
        self._checkpoint_s = options.checkpoint_s
        self._stop = stop
        self._rungs, self._epochs = rungs_of(options.study_file), options.study_file.max_epochs
        check_memory(options.study_file, self._workspace.plan)

    def admit(self, config: TrialConfig) -> None:
        """Raise :class:`~hms_tune.errors.MemoryPlanError` if the device has no room for a configuration."""
        self._workspace.plan(config).require()

    def train(self, config: TrialConfig, directory: Path) -> Iterator[Event]:
        """Train a trial, with checkpoints in ``directory``: one at each rung among them."""
        watch = RungWatch(self._rungs, self._epochs)
        trial = CrossValidation(
            config,
            self._workspace,
            self._device,
            directory=directory,
            checkpoint_every_s=self._checkpoint_s,
            checkpoint_now=lambda: self._stop.requested or watch.reached is not None,
        )
        for event in trial.run() if self._group is None else lead_trial(self._group, trial):
            watch.observe(event)
            if isinstance(event, CheckpointWritten) or getattr(event, "replayed", False):
                watch.pass_rung()
            yield event

    def train_fold(self, config: TrialConfig, directory: Path, fold: int) -> Iterator[Event]:
        """Train one fold alone, on this device without further ranks."""
        trial = CrossValidation(
            config,
            self._workspace,
            self._device,
            directory=directory,
            checkpoint_every_s=self._checkpoint_s,
            checkpoint_now=lambda: self._stop.requested,
        )
        return trial.run_fold(fold)

    @property
    def is_alone(self) -> bool:
        """Whether there are no further ranks."""
        return self._group is None

    def dismiss_ranks(self) -> None:
        """Let the other ranks end."""
        if self._group is not None:
            dismiss(self._group)


def follow_first_rank(plan: SlotPlan, place: RankPlace, device_name: str) -> None:
    """Be a further rank: train what the slot's process says, until it dismisses this one.

    Raises
    ------
    RankLostError
        If another rank is gone.
    """
    if plan.threads is not None:
        torch.set_num_threads(plan.threads)
    device = resolve_device(device_name)
    store = prepare(plan.options.data_root)
    group = join(place, device)
    workspace = Workspace(store, device, ranks=group.ranks)

    def start(request: TrialRequest) -> CrossValidation:
        return CrossValidation(
            request.config, workspace, directory=request.directory, keep_weights=request.keep_weights
        )

    follow_trials(group, start)


def _acceleration(plan: SlotPlan) -> AccelerationSettings:
    """How steps may be run; what is compiled is kept for the next slot."""
    options = plan.options
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(options.home / "compiled"))
    trials = options.study_file.budget.trials or 100
    return AccelerationSettings(options.acceleration, options.home / "steps.json", trials_to_come=trials)
