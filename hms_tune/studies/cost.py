"""What a study spent, where, and what giving trials up early saved."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field

from pydantic import ValidationError

from hms_tune.config.trial import TrialConfig
from hms_tune.database.queries.outcomes import Outcome
from hms_tune.trial_state import AttemptState


@dataclass(slots=True)
class Saving:
    """What pruning saved, added up. ``cost`` is in GPU-seconds, or slot-seconds on a CPU."""

    trials: int = 0
    epochs_run: int = 0
    epochs_saved: int = 0
    cost_saved: float = 0.0

    @property
    def share(self) -> float:
        """Of all epochs that were planned, those that were not trained."""
        planned = self.epochs_run + self.epochs_saved
        return self.epochs_saved / planned if planned else 0.0

    def add(self, trial: Outcome) -> None:
        """Count a trial: what a pruned one did not train, each epoch at the price it paid for its own."""
        self.epochs_run += trial.epochs
        if trial.state is AttemptState.PRUNED:
            planned = None if trial.plan is None else _planned_epochs(trial.plan)
            left = max(0, (planned or trial.epochs) - trial.epochs)
            self.trials += 1
            self.epochs_saved += left
            self.cost_saved += left * (trial.epoch_seconds or 0.0) * (trial.gpus or 1.0)


@functools.lru_cache(maxsize=1024)
def _planned_epochs(plan: str) -> int | None:
    """Epochs a trial would have taken to its end, early stopping aside; None if its values are not known."""
    try:
        config = TrialConfig.model_validate_json(plan)
    except ValidationError:  # of another version
        return None
    return config.data.trained_folds * config.training.total_epochs


@dataclass(slots=True)
class DeviceUse:
    """What ran on one kind of device of one host, added up. ``peak_memory`` is in bytes."""

    host: str
    device_name: str
    slots: set[str] = field(default_factory=set)
    trials: int = 0
    hours: float = 0.0
    peak_memory: int | None = None

    def add(self, trial: Outcome) -> None:
        """Count a trial that ended there."""
        self.slots.update(trial.slots)
        self.trials += 1
        self.hours += trial.seconds / 3600
        self.peak_memory = max(self.peak_memory or 0, trial.peak_memory or 0) or None


def cost_unit(on_gpus: bool) -> str:
    """What costs count."""
    return "GPU-seconds" if on_gpus else "slot-seconds"
