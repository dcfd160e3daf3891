"""When a fold has learnt what it can."""

from __future__ import annotations

import math
from dataclasses import dataclass

from hms_tune.config.trial import EarlyStopping

_KEPT = {"epoch": int, "kl": float, "reference": float, "epochs_without_improvement": int}


@dataclass(slots=True)
class BestEpoch:
    """The best epoch of a fold so far, and how long ago it was.

    With early stopping, an epoch counts as improvement only when it is better by ``min_delta``; the best
    epoch itself is always the one with the lowest KL.
    """

    rule: EarlyStopping | None = None
    epoch: int = -1
    kl: float = math.inf
    reference: float = math.inf
    epochs_without_improvement: int = 0

    def observe(self, epoch: int, kl: float) -> bool:
        """Take note of an epoch; True when it is the best so far."""
        min_delta = self.rule.min_delta if self.rule else 0.0
        if kl < self.reference - min_delta:
            self.reference = kl
            self.epochs_without_improvement = 0
        else:
            self.epochs_without_improvement += 1
        if kl < self.kl:
            self.epoch, self.kl = epoch, kl
            return True
        return False

    def renew_patience(self) -> None:
        """A new stage begins: it is given time to improve on what there is."""
        self.epochs_without_improvement = 0

    @property
    def exhausted(self) -> bool:
        """Whether the patience is used up."""
        return self.rule is not None and self.epochs_without_improvement >= self.rule.patience

    def state_dict(self) -> dict[str, float | int]:
        """What a checkpoint keeps."""
        return {name: getattr(self, name) for name in _KEPT}

    def load_state_dict(self, state: dict[str, float | int]) -> None:
        """Go on from :meth:`state_dict`."""
        for name, kind in _KEPT.items():
            setattr(self, name, kind(state[name]))
