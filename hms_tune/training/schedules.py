"""The learning rate over a fold, as a factor on the largest one.

All schedules but ``plateau`` are pure functions of the step, so nothing of them needs to be kept in a
checkpoint. The warm-up and cycle shapes follow their papers: one-cycle is Smith & Topin (arXiv 1708.07120),
the triangular cycle Smith (arXiv 1506.01186), cosine annealing Loshchilov & Hutter (arXiv 1608.03983).
"""

from __future__ import annotations

import math
from collections.abc import Callable

from hms_tune.config.trial import (
    ConstantSchedule,
    CosineSchedule,
    CyclicSchedule,
    LearningRateSchedule,
    OneCycleSchedule,
    PlateauSchedule,
)


def make_schedule(config: LearningRateSchedule, *, epochs: int, steps_per_epoch: int) -> Shape | Plateau:
    """The schedule of a fold of ``epochs`` epochs."""
    if isinstance(config, PlateauSchedule):
        return Plateau(config, epochs * steps_per_epoch)
    return Shape(config, epochs * steps_per_epoch, steps_per_epoch)


def _warmup(step: int, steps: int) -> float:
    """Linear from 1/(steps + 1) towards 1, which is reached at ``steps``."""
    return (step + 1) / (steps + 1)


def _warmed(step: int, warmup: int, factor: Callable[[int], float]) -> float:
    """A rise over ``warmup`` steps, then ``factor`` of the steps since."""
    return _warmup(step, warmup) if step < warmup else factor(step - warmup)


def _one_cycle(config: OneCycleSchedule, step: int, total: int) -> float:
    rising = max(1.0, config.rise * total)
    if step < rising:
        return _cosine(config.start, 1.0, step / rising)
    return _cosine(1.0, config.final, (step - rising) / max(1.0, total - 1 - rising))


def _cosines(cycles: int, end: float, share: float) -> float:
    number = min(int(share * cycles), cycles - 1)
    return _cosine(1.0, end, share * cycles - number)


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1.0 + math.cos(math.pi * share)) / 2.0


class Shape:
    """A schedule that depends on the step alone."""

    def __init__(
        self,
        config: ConstantSchedule | CosineSchedule | OneCycleSchedule | CyclicSchedule,
        total_steps: int,
        steps_per_epoch: int,
    ) -> None:
        self._config = config
        self._total = total_steps
        self._steps_per_epoch = steps_per_epoch

    def factor(self, step: int) -> float:
        """What the largest learning rate is multiplied by at this step, counted from 0."""
        config, total = self._config, self._total
        match config:
            case ConstantSchedule():
                return _warmed(step, round(config.warmup * total), lambda step: 1.0)
            case CosineSchedule():
                warmup = round(config.warmup * total)
                falling, cycles = max(1, total - 1 - warmup), config.restarts + 1
                return _warmed(step, warmup, lambda step: _cosines(cycles, config.final, step / falling))
            case OneCycleSchedule():
                return _one_cycle(config, step, total)
            case CyclicSchedule():
                cycle = max(2.0, config.cycle_epochs * self._steps_per_epoch)
                position = (step % cycle) / cycle
                return config.floor + (1.0 - config.floor) * (1.0 - abs(2.0 * position - 1.0))

    def epoch_ended(self, kl: float) -> None:
        """Nothing: the shape is fixed."""

    def state_dict(self) -> dict[str, float]:
        """What a checkpoint keeps: nothing."""
        return {}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Nothing: the shape is fixed."""


class Plateau:
    """The learning rate shrinks by a factor whenever KL has not improved for some epochs."""

    def __init__(self, config: PlateauSchedule, total_steps: int) -> None:
        self._config = config
        self._warmup_steps = round(config.warmup * total_steps)
        self._scale = 1.0
        self._best = math.inf
        self._bad_epochs = 0

    def factor(self, step: int) -> float:
        """As :meth:`Shape.factor`."""
        if step < self._warmup_steps:
            return _warmup(step, self._warmup_steps)
        return self._scale

    def epoch_ended(self, kl: float) -> None:
        """Hear the validation KL of an epoch."""
        if kl < self._best:
            self._best, self._bad_epochs = kl, 0
            return
        self._bad_epochs += 1
        if self._bad_epochs > self._config.patience:
            self._scale *= self._config.factor
            self._bad_epochs = 0

    def state_dict(self) -> dict[str, float]:
        """What a checkpoint keeps."""
        return {"scale": self._scale, "best": self._best, "bad_epochs": self._bad_epochs}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Go on from :meth:`state_dict`."""
        self._scale = state["scale"]
        self._best = state["best"]
        self._bad_epochs = int(state["bad_epochs"])
