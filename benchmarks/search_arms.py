"""The strategies that ``search.py`` replays.

Pruning, promotion and the model are the product's own code; so is Optuna's, on a study in memory. Samplers
are restricted to the table: they choose among configurations that were tabulated. Ray's rule is restated.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from itertools import pairwise
from math import ceil
from typing import Any, Literal, NamedTuple, cast

import numpy as np
import optuna
from optuna.trial import FrozenTrial, TrialState
from search_pruned import Trials, forget
from search_replay import Floats, Job, Strategy, Table

from hms_tune.config.study_file import StudyFile
from hms_tune.search.promotion.drift import Drift
from hms_tune.search.promotion.progress import ProgressState, TrialProgress
from hms_tune.search.promotion.rule import REDUCTION_FACTOR, SHARES, Promotion, rungs
from hms_tune.search.promotion.surrogate import Posterior, Surrogate
from hms_tune.search.promotion_sampler import RANDOM_SHARE, STARTUP_TRIALS
from hms_tune.search.pruners import make_pruner

optuna.logging.set_verbosity(optuna.logging.ERROR)

CANDIDATES = 60
"""Of the table's configurations that have not begun, so many are looked at for one draw."""

TPE_STARTUP = 10


class Pool:
    """The configurations that have not begun, in a random order."""

    def __init__(self, table: Table, seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        self._waiting = [int(number) for number in self._rng.permutation(table.count)]
        self._table = table

    def __len__(self) -> int:
        return len(self._waiting)

    def random(self) -> int:
        """The next one of the order."""
        return self._waiting.pop()

    def give_back(self, number: int) -> None:
        """It did not begin after all."""
        self._waiting.insert(0, number)

    def nearest(self, params: Mapping[str, Any]) -> int:
        """The one that is most like a configuration of no table."""
        distance = ((self._table.encoded[self._waiting] - self._table.encode([params])) ** 2).sum(axis=1)
        return self._waiting.pop(int(distance.argmin()))

    def most(self, gains: Callable[[list[int]], Floats], *, explores: bool = True) -> int:
        """The best of some; one in ten is random, where the strategy explores."""
        if explores and self._rng.random() < RANDOM_SHARE:
            return self.random()
        count = min(CANDIDATES, len(self))
        places = self._rng.choice(len(self), count, replace=False)
        some = [self._waiting[place] for place in places]
        return self._waiting.pop(int(places[int(np.argmax(gains(some)))]))

    def by_density(self, seen: list[int], values: Floats) -> int:
        """As TPE chooses: by the ratio of the densities of good and bad configurations."""
        if len(seen) < TPE_STARTUP:
            return self.random()
        order = np.argsort(values, kind="stable")
        count = max(3, ceil(0.15 * len(order)))
        observed = np.array(seen)[order]

        def gains(some: list[int]) -> Floats:
            distance = self._table.squared_distances[np.array(some)[:, None], observed]
            kernel = np.exp(-distance / 0.5)
            good, bad = kernel[:, :count].mean(axis=1), kernel[:, count:].mean(axis=1)
            return np.asarray(np.log(good + 1e-6) - np.log(bad + 1e-6))

        return self.most(gains)


class _Searching(Strategy):
    def __init__(self, table: Table, seed: int) -> None:
        self.table, self.pool = table, Pool(table, seed)
        self.complete: dict[int, float] = {}
        self.lost: set[int] = set()

    def begin(self) -> int:
        """Which configuration begins next."""
        return self.pool.random()


class Sequential(_Searching):
    """A worker trains a trial until a rule gives it up: what there is without checkpoints."""

    def __init__(self, table: Table, seed: int) -> None:
        super().__init__(table, seed)
        self._current: dict[int, Job] = {}

    def ask(self, worker: int) -> Job | None:
        job = self._current.get(worker)
        if job is None:
            if not len(self.pool):
                return None
            job = Job(self.begin(), 0, self.decides_after(0))
        return job

    def tell(self, worker: int, job: Job) -> None:
        number, step = job.configuration, job.last
        self._current.pop(worker, None)
        if step == self.table.steps:
            self.complete[number] = self.table.cv[number]
            self.ended(number, step)
        elif self.prunes(number, step):
            self.lost.add(number)
            self.ended(number, step)
        else:
            self._current[worker] = Job(number, step, self.decides_after(step))

    def decides_after(self, step: int) -> int:
        """The next step at which the rule decides, or the last one."""
        return self.table.steps

    def prunes(self, number: int, step: int) -> bool:
        """Whether a trial ends before its time."""
        return False

    def ended(self, number: int, step: int) -> None:
        """A trial is complete, or was given up."""


@cache
def _study_file(pruner: str, folds: int, epochs: int) -> StudyFile:
    text = (
        f"study: x\ndata: {{folds: {folds}}}\ntraining: {{epochs: {epochs}}}\nsearch: {{pruner: {pruner}}}\n"
    )
    return StudyFile.parse(text, "benchmarks/search_arms.py")


class Pruned(Sequential):
    """A pruner, asked as the product asks it: after each epoch, or after each fold.

    Parameters
    ----------
    report : what it is told
    halves_by : it decides at powers of this number alone; None: whenever it is asked
    """

    def __init__(
        self,
        table: Table,
        seed: int,
        pruner: optuna.pruners.BasePruner,
        *,
        report: Literal["estimate", "epoch", "fold"],
        halves_by: int | None = None,
    ) -> None:
        super().__init__(table, seed)
        self._pruner, self._report, self._halves_by = pruner, report, halves_by
        self._seen = Trials(str(seed))
        self._trials: dict[int, int] = {}
        self._pruned_at: dict[int, int] = {}
        forget()

    @classmethod
    def of_product(cls, pruner: str) -> Maker:
        def make(table: Table, seed: int) -> Strategy:
            study_file = _study_file(pruner, table.folds, table.epochs)
            given = study_file.search.pruner
            whole = given.compares_whole_folds
            halves_by: int | None = getattr(given, "reduction_factor", None)
            made = make_pruner(study_file)
            return cls(table, seed, made, report="fold" if whole else "estimate", halves_by=halves_by)

        return make

    def decides_after(self, step: int) -> int:
        if isinstance(self._pruner, optuna.pruners.NopPruner):
            return self.table.steps
        if self._report == "fold":
            return step + self.table.epochs
        if self._halves_by is None:
            return step + 1
        rung = 1
        while rung <= step:
            rung *= self._halves_by
        return min(rung, self.table.steps)

    def reported(self, number: int, step: int) -> tuple[float, int]:
        """What the pruner is told, and at which step."""
        fold, epoch = divmod(step - 1, self.table.epochs)
        match self._report:
            case "estimate":
                return float(self.table.estimates[number, step - 1]), step
            case "epoch":
                return float(self.table.kl[number, fold, epoch]), step
            case "fold":
                return float(self.table.best[number, fold, -1]), fold

    def prunes(self, number: int, step: int) -> bool:
        value, at = self.reported(number, step)
        trial = self._trial(number)
        trial.intermediate_values[at] = value
        return self._pruner.prune(cast("optuna.Study", self._seen), trial)

    def ended(self, number: int, step: int) -> None:
        if number not in self.complete:
            self._pruned_at[number] = step
        self._seen.end(self._trial(number), self.complete.get(number))

    def _trial(self, number: int) -> FrozenTrial:
        if number not in self._trials:
            self._trials[number] = self._seen.begin()
        return self._seen.trial(self._trials[number])


class Bracketed(Pruned):
    """Hyperband, which makes a study of each bracket from a real one."""

    def __init__(self, table: Table, seed: int, pruner: optuna.pruners.BasePruner, **given: Any) -> None:
        super().__init__(table, seed, pruner, **given)
        self._study = optuna.create_study(study_name=str(seed), pruner=pruner)
        self._asked: dict[int, optuna.Trial] = {}

    def prunes(self, number: int, step: int) -> bool:
        if number not in self._asked:
            self._asked[number] = self._study.ask()
        self._asked[number].report(*self.reported(number, step))
        return self._asked[number].should_prune()

    def ended(self, number: int, step: int) -> None:
        value = self.complete.get(number)
        state = TrialState.PRUNED if value is None else TrialState.COMPLETE
        self._study.tell(self._asked[number], value, state)


class PrunedTPE(Pruned):
    """TPE beside it; what was given up ranks after what is complete, later before earlier."""

    def begin(self) -> int:
        keys: dict[int, tuple[float, ...]] = {number: (0, value) for number, value in self.complete.items()}
        for number, step in self._pruned_at.items():
            keys[number] = (1, -step, self.table.estimates[number, step - 1])
        ranked = sorted(keys, key=lambda number: keys[number])
        return self.pool.by_density(ranked, np.arange(len(ranked), dtype=float))


class TPE(Sequential):
    """TPE without pruning."""

    def begin(self) -> int:
        return self.pool.by_density(list(self.complete), np.array(list(self.complete.values())))


class RayASHA(Sequential):
    """Ray's AsyncHyperBandScheduler with one bracket, grace period 1 and a reduction factor of 3.

    At a milestone the value is held against the percentile of those recorded there before, then recorded.
    """

    factor = 3

    def __init__(self, table: Table, seed: int) -> None:
        super().__init__(table, seed)
        self.recorded: dict[int, dict[int, float]] = {}
        milestone = 1
        while milestone < table.steps:
            self.recorded[milestone] = {}
            milestone *= self.factor

    def decides_after(self, step: int) -> int:
        return min((each for each in self.recorded if each > step), default=self.table.steps)

    def prunes(self, number: int, step: int) -> bool:
        known, mine = self.recorded[step], float(self.table.estimates[number, step - 1])
        cutoff = np.percentile(list(known.values()), 100 / self.factor) if known else None
        known[number] = mine
        return cutoff is not None and mine > cutoff


class RayASHATPE(RayASHA):
    """TPE beside it, over final scores, or over the highest milestone that enough trials reached."""

    def begin(self) -> int:
        for known in (self.complete, *reversed(self.recorded.values())):
            if len(known) >= TPE_STARTUP:
                return self.pool.by_density(list(known), np.array(list(known.values())))
        return self.pool.random()


class Knowing(_Searching):
    """Knows the best configuration and confirms it, then the second best, and so on."""

    spread = False

    def __init__(self, table: Table, seed: int) -> None:
        super().__init__(table, seed)
        self._jobs: list[Job] = []
        self._open: dict[int, int] = {}
        parts = table.folds if self.spread else 1
        size = table.steps // parts
        for number in np.argsort(table.cv):
            self._jobs += [Job(int(number), part * size, (part + 1) * size) for part in range(parts)]
            self._open[int(number)] = parts
        self._jobs.reverse()

    def ask(self, worker: int) -> Job | None:
        return self._jobs.pop() if self._jobs else None

    def tell(self, worker: int, job: Job) -> None:
        self._open[job.configuration] -= 1
        if not self._open[job.configuration]:
            self.complete[job.configuration] = self.table.cv[job.configuration]


class KnowingSpread(Knowing):
    """The same, with the folds of a configuration on several workers."""

    spread = True


class Choices(NamedTuple):
    """What was tried of promotion; the defaults are the product's."""

    shares: tuple[float, ...] = SHARES
    factor: int = REDUCTION_FACTOR
    spread: bool = True
    model: str = "gp"


class Promoted(_Searching):
    """The product's promotion, with or without its model."""

    def __init__(self, table: Table, seed: int, choices: Choices) -> None:
        super().__init__(table, seed)
        self.choices = choices
        self.rungs = rungs(table.epochs, table.folds, choices.shares)
        self.promotion = Promotion(self.rungs, choices.factor)
        self.surrogate = Surrogate(table.distributions, self.rungs)
        self.surrogate._encode = table.encode
        self.progress: dict[int, TrialProgress] = {}
        self._parts: list[Job] = []
        self._open: dict[int, int] = {}

    @classmethod
    def make(cls, choices: Choices) -> Maker:
        return lambda table, seed: cls(table, seed, choices)

    def ask(self, worker: int) -> Job | None:
        if self._parts:
            return self._parts.pop()
        trials = list(self.progress.values())
        number = self.promotion.next(trials)
        if number is None and len(self.pool):
            number = self.begin()
            self._note(number, 0, "running")
            return Job(number, 0, self.rungs[0])
        if number is None:
            waiting = [trial for trial in trials if trial.state == "paused"]
            if not waiting:
                return None
            number = next(
                iter(self.promotion.finish(trials)), max(waiting, key=lambda trial: trial.step).number
            )
        return self.go_on(number)

    def go_on(self, number: int) -> Job:
        """Train a paused trial up to its next rung."""
        first, epochs = self.progress[number].step, self.table.epochs
        last = next(rung for rung in self.rungs if rung > first)
        self._note(number, first, "running")
        if self.choices.spread and first % epochs == 0 and last - first > epochs:
            jobs = [Job(number, step, step + epochs) for step in range(first, last, epochs)]
            self._open[number] = len(jobs)
            self._parts = [*reversed(jobs[1:]), *self._parts]
            return jobs[0]
        return Job(number, first, last)

    def tell(self, worker: int, job: Job) -> None:
        number, reached = job.configuration, job.last
        if number in self._open:
            self._open[number] -= 1
            if self._open[number]:
                return
            del self._open[number]
            reached = next(rung for rung in self.rungs if rung > self.progress[number].step)
        if reached == self.table.steps:
            self.complete[number] = self.table.cv[number]
        self._note(number, reached, "complete" if reached == self.table.steps else "paused")

    def _note(self, number: int, step: int, state: ProgressState) -> None:
        estimates = {
            rung: float(self.table.comparable[number, rung - 1]) for rung in self.rungs if rung <= step
        }
        self.progress[number] = TrialProgress(number, self.table.params[number], step, estimates, state)

    def begin(self) -> int:
        trials = [trial for trial in self.progress.values() if trial.step]
        if self.choices.model == "none" or len(trials) < STARTUP_TRIALS:
            return self.pool.random()
        if self.choices.model == "tpe":
            drift = Drift.of(trials, self.rungs)
            levels = [self.promotion.level(trial) for trial in trials]
            values = [
                trial.value(self.rungs[level]) + drift.shift[level]
                for trial, level in zip(trials, levels, strict=True)
            ]
            return self.pool.by_density([trial.number for trial in trials], np.array(values))
        posterior = self.surrogate.fit(self.progress.values())
        return self.pool.most(
            lambda some: posterior.expected_improvement([self.table.params[n] for n in some])
        )


class Thawed(Promoted):
    """Whoever has the largest expected improvement per cost to go is next, be it paused or new."""

    def __init__(self, table: Table, seed: int, choices: Choices) -> None:
        super().__init__(table, seed, choices)
        self._to_go = [self._steps_to_go(level) for level in range(len(self.rungs))]

    def ask(self, worker: int) -> Job | None:
        if self._parts:
            return self._parts.pop()
        trials = list(self.progress.values())
        seen = [trial for trial in trials if trial.step]
        if len(seen) < STARTUP_TRIALS:
            return super().ask(worker)
        if not len(self.pool) and all(trial.state != "paused" for trial in trials):
            return None
        posterior = self.surrogate.fit(trials)
        go_on = self._worth(seen, posterior)
        number = max(go_on, key=lambda number: go_on[number], default=None)
        if len(self.pool):
            cost = self.rungs[0] + self._to_go[0] / self.choices.factor
            gains: list[float] = []

            def rated(some: list[int]) -> Floats:
                found = posterior.expected_improvement([self.table.params[n] for n in some])
                gains.append(float(found.max()) / cost)
                return found

            fresh = self.pool.most(rated)
            if number is None or not gains or gains[0] > go_on[number]:
                self._note(fresh, 0, "running")
                return Job(fresh, 0, self.rungs[0])
            self.pool.give_back(fresh)
        return None if number is None else self.go_on(number)

    def _worth(self, trials: list[TrialProgress], posterior: Posterior) -> dict[int, float]:
        gains = posterior.improvement_of_trials()
        return {
            trial.number: gains[trial.number] / self._to_go[self.promotion.level(trial)]
            for trial in trials
            if trial.state == "paused"
        }

    def _steps_to_go(self, level: int) -> float:
        """Steps that a trial at a rung is expected to take, most of which do not go on."""
        left = 0.0
        for low, high in reversed(list(pairwise(self.rungs[level:]))):
            left = high - low + left / self.choices.factor
        return left


Maker = Callable[[Table, int], Strategy]


def _optuna_median(table: Table, seed: int) -> Strategy:
    return Pruned(table, seed, optuna.pruners.MedianPruner(), report="epoch")


EFFNET_MEDIAN = "{name: median, startup_trials: 8, warmup_epochs: 2}"

ARMS: dict[str, Maker] = {
    "random, no pruning": Sequential,
    "TPE, no pruning": TPE,
    "random + median (as effnet.yaml had it)": Pruned.of_product(EFFNET_MEDIAN),
    "random + median (defaults)": Pruned.of_product("median"),
    "random + percentile 25": Pruned.of_product("{name: percentile, percentile: 25}"),
    "random + successive halving": Pruned.of_product("successive_halving"),
    "random + Hyperband": Bracketed.of_product("hyperband"),
    "random + Wilcoxon": Pruned.of_product("wilcoxon"),
    "random + Optuna's median, epoch KL": _optuna_median,
    "TPE + median (as effnet.yaml had it)": PrunedTPE.of_product(EFFNET_MEDIAN),
    "TPE + median (defaults)": PrunedTPE.of_product("median"),
    "random + Ray's ASHA": RayASHA,
    "TPE + Ray's ASHA": RayASHATPE,
    "random + promotion": Promoted.make(Choices(model="none")),
    "TPE + promotion": Promoted.make(Choices(model="tpe")),
    "model + promotion": Promoted.make(Choices()),
    "model + promotion, folds one after another": Promoted.make(Choices(spread=False)),
    "model, expected improvement per cost": Thawed.make(Choices()),
}
BOUNDS: dict[str, Maker] = {
    "knowing the best": Knowing,
    "knowing the best, folds spread": KnowingSpread,
}

EARLY = {"1/3": (0.02, 0.06), "2/4": (0.04, 0.08), "4": (0.08,)}
LATE = {"1 fold": (0.2, 1.0), "2 folds": (0.4, 1.0)}
VARIANTS: dict[str, Maker] = {
    f"{early}/{late}, factor {factor}": Promoted.make(Choices((*EARLY[early], *LATE[late]), factor))
    for early in EARLY
    for late in LATE
    for factor in (3, 4)
}
