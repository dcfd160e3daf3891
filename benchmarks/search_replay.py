"""The simulated clock of ``search.py``: what a search would have done with the trials of a table."""

from __future__ import annotations

import heapq
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from math import ceil, inf
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution

from hms_tune.config.study_file import StudyFile
from hms_tune.search.promotion.surrogate import Encoder
from hms_tune.search.suggest import distributions
from hms_tune.training.fold_difficulty import comparable_estimate

Floats = NDArray[np.float64]

LEVELS = ("within 1 %", "within 2 %", "within 5 %", "best 1 %")
REGRET_AFTER = {1: 20, 8: 20, 64: 128}
"""Full trials in all, by number of workers, after which regret is taken."""


class TableEncoder(Encoder):
    """The product's, with the rows of a table's own configurations kept; these are known by identity."""

    def __init__(self, distributions: Mapping[str, BaseDistribution], params: list[dict[str, Any]]) -> None:
        super().__init__(distributions)
        self.encoded = super().__call__(params)
        self._params = params
        self._rows = {id(given): row for row, given in enumerate(params)}

    def __call__(self, params: Sequence[Mapping[str, Any]]) -> Floats:
        rows = [self._rows.get(id(given)) for given in params]
        return super().__call__(params) if None in rows else self.encoded[rows]


class Table:
    """A table of ``search_table.py``; steps count as in the product, a full trial costs 1 in the mean.

    Attributes
    ----------
    best : array (configurations, folds, epochs), the lowest KL of the fold so far
    estimates : array (configurations, steps), the cross-validation estimate after each step
    comparable : the same on the scale of all folds
    cv, held_out : array (configurations,), the final score and the KL on held-out patients
    cost : array (configurations,), of a step
    encoded : array (configurations, columns), parameters as the product's model sees them
    squared_distances : array (configurations, configurations), between the rows of ``encoded``
    text, space, distributions : what configurations were drawn from
    """

    def __init__(self, path: Path) -> None:
        with np.load(path) as stored:
            data = dict(stored)
        self.text = str(data["space"])
        self.space = StudyFile.parse(self.text, str(path)).space
        self.distributions = distributions(self.space)
        self.params = [json.loads(text) for text in data["params"]]
        self.encode = TableEncoder(self.distributions, self.params)
        kl = data["kl"].astype(float)
        self.count, self.folds, self.epochs = kl.shape
        self.steps = self.folds * self.epochs
        self.kl, self.best = kl, np.minimum.accumulate(kl, axis=2)
        before = np.cumsum(self.best[:, :, -1], axis=1) - self.best[:, :, -1]
        by_fold = (before[:, :, None] + self.best) / np.arange(1, self.folds + 1)[None, :, None]
        self.estimates: Floats = by_fold.reshape(self.count, -1)
        self.prior_kl = [float(value) for value in data["prior_kl"]]
        self.comparable = np.stack(
            [
                comparable_estimate(self.estimates[:, step], step // self.epochs, self.prior_kl)
                for step in range(self.steps)
            ],
            axis=1,
        )
        self.cv: Floats = self.estimates[:, -1]
        self.held_out = data["held_out"].astype(float)
        seconds = np.median(data["seconds"].astype(float).reshape(self.count, -1), axis=1)
        # A neighbour on the machine disturbs single clocks; what a step costs depends on few parameters.
        names = ("model.backbone", "training.batch_size", "model.frozen_layers", "input.eeg")
        kinds = [tuple(str(params[name]) for name in names) for params in self.params]
        typical = {kind: np.median(seconds[[kind == each for each in kinds]]) for kind in set(kinds)}
        cost = np.array([typical[kind] for kind in kinds])
        self.cost: Floats = cost / (cost.mean() * self.steps)
        self.encoded = self.encode.encoded
        self.squared_distances = ((self.encoded[:, None] - self.encoded[None]) ** 2).sum(axis=-1)
        ranked = np.sort(self.cv)
        goals = [self.cv.min() * factor for factor in (1.01, 1.02, 1.05)]
        goals.append(ranked[ceil(0.01 * self.count) - 1])
        self.goals = dict(zip(LEVELS, goals, strict=True))


class Job(NamedTuple):
    """What a worker trains next: a configuration, after one step up to another."""

    configuration: int
    first: int
    last: int


class Strategy(Protocol):
    """A search: what is trained next, given what was."""

    complete: dict[int, float]
    """Final scores of confirmed configurations, in the order of confirmation."""
    lost: set[int]
    """What can never be confirmed any more."""

    def ask(self, worker: int) -> Job | None:
        """What a free worker does; None: nothing until another one is done, nor for any that is idle."""

    def tell(self, worker: int, job: Job) -> None:
        """A job is done."""


@dataclass(frozen=True, slots=True)
class Course:
    """What one search came to.

    Attributes
    ----------
    times : full trials per worker until a configuration of each of :data:`LEVELS` is confirmed; inf: never
    regret : of the confirmed best on the held-out patients, after so many full trials
    best_lost : whether the best configuration of the table was given up for ever
    """

    times: tuple[float, ...]
    regret: float
    best_lost: bool


def simulate(table: Table, strategy: Strategy, workers: int) -> Course:
    """Run a search by a simulated clock, until all that is asked about it is known."""
    queue: list[tuple[float, int, Job | None]] = [(0.0, worker, None) for worker in range(workers)]
    idle: list[int] = []
    found: list[tuple[float, int]] = []
    best = int(np.argmin(table.cv))
    until = REGRET_AFTER[workers] / workers
    goal = min(table.goals.values())
    reached = nothing = False
    while queue:
        now, worker, job = heapq.heappop(queue)
        if job is not None:
            strategy.tell(worker, job)
            for number in islice(strategy.complete, len(found), None):
                found.append((now, number))
                reached = reached or bool(table.cv[number] <= goal)
            nothing = False
            for other in idle:
                heapq.heappush(queue, (now, other, None))
            idle.clear()
        settled = workers > 1 or best in strategy.complete or best in strategy.lost
        if now > until and settled and reached:
            break
        asked = None if nothing and job is None else strategy.ask(worker)
        if asked is None:
            nothing = True
            idle.append(worker)
            continue
        seconds = (asked.last - asked.first) * table.cost[asked.configuration]
        heapq.heappush(queue, (now + seconds, worker, asked))
    times = tuple(
        next((time for time, number in found if table.cv[number] <= goal), inf)
        for goal in table.goals.values()
    )
    confirmed = [number for time, number in found if time <= until]
    winner = min(confirmed, key=lambda number: table.cv[number], default=None)
    held_out = float(np.median(table.held_out) if winner is None else table.held_out[winner])
    return Course(times, held_out - float(table.held_out.min()), best in strategy.lost)
