"""What a running trial has told so far, and what of it is written with its result."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from hms_tune.tracking.observer import TrialInfo
from hms_tune.training.events import CheckpointWritten, CrossValidationEnded, EpochEnded, Event


@dataclass(slots=True)
class Story:
    """The trial, its last epoch, its end, and the seconds its epochs took."""

    trial: TrialInfo | None = None
    last: EpochEnded | None = None
    ended: CrossValidationEnded | None = None
    seconds: float = 0.0

    def add(self, event: Event) -> None:
        """Take in an event."""
        match event:
            case EpochEnded():
                self.last = event
                self.seconds += event.seconds
            case CrossValidationEnded():
                self.ended = event
            case _:
                pass

    def attributes(self) -> dict[str, Any]:
        """User attributes of the Optuna trial."""
        attributes: dict[str, Any] = {"seconds": round(self.seconds, 3)}
        if (ended := self.ended) is not None:
            attributes |= {
                "kl_all_rows": ended.kl_all_rows,
                "kl_high_vote": None if math.isnan(ended.kl_high_vote) else ended.kl_high_vote,
                "fold_kl": list(ended.fold_kl),
                "best_epochs": list(ended.best_epochs),
            }
        return attributes


def resumable(event: Event) -> bool:
    """Stopping right after an epoch, before its checkpoint, would throw the epoch away."""
    return isinstance(event, CheckpointWritten) or not isinstance(event, EpochEnded) or event.replayed
