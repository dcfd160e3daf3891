"""What a study spent, where, and what giving trials up early saved."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from pydantic import ValidationError

from hms_tune.config.trial import TrialConfig
from hms_tune.studies.trial_record import StudyRecord, TrialRecord
from hms_tune.trial_state import AttemptState


@dataclass(frozen=True, slots=True)
class Saving:
    """What pruning saved. ``cost`` is in GPU-seconds, or slot-seconds on a CPU; shares are of all planned."""

    trials: int
    epochs_run: int
    epochs_saved: int
    cost_saved: float
    share: float


@dataclass(frozen=True, slots=True)
class DeviceUse:
    """What ran on one kind of device of one host."""

    host: str
    device_name: str
    slots: int
    trials: int
    hours: float
    peak_memory: int | None


def planned_epochs(trial: TrialRecord) -> int | None:
    """Epochs a trial would have taken to its end, early stopping aside; None if its values are not known."""
    if trial.config is None:
        return None
    try:
        config = TrialConfig.model_validate(trial.config)
    except ValidationError:  # of another version
        return None
    return config.data.trained_folds * config.training.total_epochs


def saving(trials: Sequence[TrialRecord]) -> Saving:
    """What was not trained because trials were pruned, each epoch at the price the trial paid for its own."""
    pruned = [trial for trial in trials if trial.state is AttemptState.PRUNED]
    run = sum(trial.epochs_run for trial in trials)
    saved, cost = 0, 0.0
    for trial in pruned:
        left = max(0, (planned_epochs(trial) or trial.epochs_run) - trial.epochs_run)
        saved += left
        cost += left * _cost_per_epoch(trial)
    share = saved / (run + saved) if run + saved else 0.0
    return Saving(len(pruned), run, saved, cost, share)


def _cost_per_epoch(trial: TrialRecord) -> float:
    seconds = [epoch.seconds for fold in trial.folds for epoch in fold.epochs]
    return statistics.median(seconds) * (trial.gpus or 1.0) if seconds else 0.0


def use_by_device(study: StudyRecord) -> list[DeviceUse]:
    """What ran on each kind of device of each host; the one that did the most comes first."""
    by_device: dict[tuple[str, str], list[TrialRecord]] = defaultdict(list)
    for trial in study.trials:
        attempt = trial.last_attempt
        if attempt is not None:
            by_device[attempt.host, trial.device_name or "unknown device"].append(trial)
    found = []
    for (host, device), trials in by_device.items():
        slots = {each.slot for trial in trials for each in trial.attempts if each.host == host}
        memory = [trial.peak_memory for trial in trials if trial.peak_memory]
        hours = sum(trial.seconds for trial in trials) / 3600
        found.append(DeviceUse(host, device, len(slots), len(trials), hours, max(memory, default=None)))
    return sorted(found, key=lambda use: -use.hours)


def span(study: StudyRecord) -> tuple[datetime, datetime] | None:
    """When the first attempt began and the last one ended."""
    attempts = [attempt for trial in study.trials for attempt in trial.attempts]
    ends = [attempt.ended_at or attempt.started_at for attempt in attempts]
    return (min(attempt.started_at for attempt in attempts), max(ends)) if attempts else None


@dataclass(frozen=True, slots=True)
class CostFront:
    """What complete trials cost, and those of them than which none was both cheaper and better.

    Parameters
    ----------
    unit : of the costs
    trials : complete trials, the best first
    front : those that none beats, by cost
    log : whether costs are so far apart that a few dear trials would press the others together
    """

    unit: str
    trials: tuple[TrialRecord, ...]
    front: tuple[TrialRecord, ...]
    log: bool


def cost_front(study: StudyRecord) -> CostFront:
    """What a KL costs in a study."""
    trials = [trial for trial in study.ranked if trial.attempts]
    costs = [trial.cost for trial in trials]
    log = bool(costs) and min(costs) > 0.0 and max(costs) > 8.0 * min(costs)
    return CostFront(cost_unit(study.trials), tuple(trials), tuple(pareto_front(trials)), log)


def pareto_front(trials: Sequence[TrialRecord]) -> list[TrialRecord]:
    """Complete trials than which none was both cheaper and better, by cost."""
    front: list[TrialRecord] = []
    for trial in sorted(trials, key=lambda each: (each.cost, each.value)):
        if trial.value is not None and (not front or trial.value < (front[-1].value or math.inf)):
            front.append(trial)
    return front


def cost_unit(trials: Sequence[TrialRecord]) -> str:
    """What :attr:`TrialRecord.cost` counts in these trials."""
    return "GPU-seconds" if any(trial.gpus for trial in trials) else "slot-seconds"
