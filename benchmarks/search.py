"""How fast searches find a good configuration: strategies replayed on tabulated trials by a simulated clock.

    python benchmarks/search.py tabulate TABLE.npz --seed N [--configurations 250] [--minutes M]
    python benchmarks/search.py choose [TABLE.npz] [--orders 200] [--processes 2]
    python benchmarks/search.py replay [TABLE.npz] [--orders 200] [--costly-orders 24] [--workers 1 8 64]
        [--minutes M] [--courses FILE]

``tabulate`` trains what ``search_table.py`` draws, on one core, and goes on with a table that is there.
``choose`` tries rungs and reduction factors, and ways to put partial estimates on one scale, on the table
that they are chosen on. ``replay`` runs every strategy of ``search_arms.py`` and ``search_samplers.py`` on
another table, of another competition and another draw; those that take seconds for each order run in fewer
orders. Both write into ``benchmarks/results/search.md``, and with ``--courses FILE`` keep finished courses
there, so that another call goes on; the file must be of the same table and code. A configuration counts as
found when all its folds are trained. The cost is in full trials per worker.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import os
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import astuple, dataclass
from math import isinf
from pathlib import Path

import numpy as np
import optuna
import torch
from scipy.stats import spearmanr
from search_arms import ARMS, BOUNDS, VARIANTS
from search_pruned import remember
from search_replay import LEVELS, REGRET_AFTER, Course, Floats, Table, simulate
from search_samplers import COSTLY, SAMPLER_ARMS, fit_seldom
from search_table import tabulate

from hms_tune.search.promotion.progress import TrialProgress
from hms_tune.search.promotion.rule import rungs
from hms_tune.search.promotion.surrogate import Surrogate
from hms_tune.training.fold_difficulty import comparable_estimate

RESULTS = Path(__file__).parent / "results"
CHOOSING, REPORTING = RESULTS / "search_choosing.npz", RESULTS / "search_reporting.npz"
STRATEGIES = ARMS | SAMPLER_ARMS | BOUNDS
PRODUCT = "model + promotion"
AGAINST = ("random, no pruning", "TPE + median (as effnet.yaml had it)", "TPE + Ray's ASHA")


@dataclass(frozen=True)
class Replay:
    """What one strategy did in all orders, on so many workers."""

    name: str
    workers: int
    courses: list[Course]

    @property
    def times(self) -> Floats:
        """Array (orders, levels)."""
        return np.array([course.times for course in self.courses])

    @property
    def regret(self) -> Floats:
        """Array (orders,)."""
        return np.array([course.regret for course in self.courses])

    @property
    def never(self) -> float:
        """The share of orders in which no configuration of the best 1 % is ever confirmed."""
        return float(np.isinf(self.times[:, -1]).mean())

    @property
    def lost(self) -> float:
        """The share of orders in which the best configuration was given up for ever."""
        return float(np.mean([course.best_lost for course in self.courses]))

    def row(self) -> str:
        """A line of the table."""
        cells = [self.name]
        for values in self.times.T:
            middle, late = (np.quantile(values, q, method="inverted_cdf") for q in (0.5, 0.9))
            cells.append(f"{shown(middle)} ({shown(late)})")
        low, high = interval(self.times[:, -1])
        cells.append(f"{shown(low)}–{shown(high)}")
        margin = 1.96 * self.regret.std() / np.sqrt(len(self.regret))
        cells.append(f"{self.regret.mean():.4f} ± {margin:.4f}")
        cells.append(f"{self.never:.0%} / {self.lost:.0%}" if self.workers == 1 else f"{self.never:.0%}")
        return "| " + " | ".join(cells) + " |"


def shown(full_trials: float) -> str:
    """A time, as text."""
    return "never" if isinf(full_trials) else f"{full_trials:.2f}"


def interval(values: Floats) -> tuple[float, float]:
    """A bootstrap interval of 95 % of the median over orders."""
    rng = np.random.default_rng(0)
    drawn = values[rng.integers(len(values), size=(1000, len(values)))]
    medians = np.quantile(drawn, 0.5, axis=1, method="inverted_cdf")
    low, high = np.quantile(medians, [0.025, 0.975], method="inverted_cdf")
    return float(low), float(high)


def ratio(of: Replay, over: Replay) -> str:
    """How many times as long one takes to the best 1 % as another, with an interval paired over orders."""
    a, b = of.times[:, -1], over.times[:, -1]
    rng = np.random.default_rng(0)
    drawn = rng.integers(len(a), size=(1000, len(a)))
    medians = [np.quantile(x[drawn], 0.5, axis=1, method="inverted_cdf") for x in (a, b)]
    low, high = np.quantile(medians[0] / medians[1], [0.025, 0.975], method="inverted_cdf")
    middle = np.quantile(a, 0.5, method="inverted_cdf") / np.quantile(b, 0.5, method="inverted_cdf")
    return f"{middle:.1f} ({low:.1f}–{high:.1f})"


_table: Table


def _load(path: Path) -> None:
    global _table  # noqa: PLW0603 - each process reads the table once
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    remember()
    fit_seldom()
    torch.set_num_threads(1)
    _table = Table(path)


def _one(task: Task) -> Course:
    name, workers, order = task
    return simulate(_table, (STRATEGIES | VARIANTS)[name](_table, order), workers)


@dataclass(frozen=True)
class Extent:
    """How much is replayed.

    Attributes
    ----------
    orders, costly_orders : the most, and those of costly strategies
    workers : their numbers
    processes : side by side
    minutes : no further orders begin after so long
    courses : a file of finished courses, of this table and this code, which the replay goes on with
    """

    orders: int
    costly_orders: int
    workers: tuple[int, ...]
    processes: int
    minutes: float
    courses: Path | None

    def most(self, name: str) -> int:
        """In how many orders a strategy is replayed."""
        return min(self.orders, self.costly_orders) if name in COSTLY else self.orders


ORDERS_AT_ONCE = 4

Task = tuple[str, int, int]
"""A strategy, the number of workers and the order."""


def replay(path: Path, names: list[str], extent: Extent) -> list[Replay]:
    """Run strategies in random orders: all in the first few, then all in the next, while there is time."""
    deadline = time.monotonic() + 60 * extent.minutes
    finished = dict(read_courses(extent.courses))
    orders = 0
    os.environ["OMP_NUM_THREADS"] = "1"  # small matrices: threads only wait for one another
    with multiprocessing.get_context("spawn").Pool(extent.processes, _load, (path,)) as pool:
        while orders < extent.orders:
            until = min(orders + ORDERS_AT_ONCE, extent.orders)
            tasks = [
                (name, count, order)
                for name in sorted(names, key=lambda name: name not in COSTLY)  # no process waits for them
                for count in extent.workers
                for order in range(orders, min(until, extent.most(name)))
            ]
            left = [task for task in tasks if task not in finished]
            if left and orders and time.monotonic() > deadline:
                break
            for task, course, taken in pool.imap_unordered(_timed, left):
                finished[task] = course, taken
                keep_course(extent.courses, task, course, taken)
            orders = until
            print(orders, "orders", flush=True)  # noqa: T201
    found = []
    for count, name in itertools.product(extent.workers, names):
        known = [finished[name, count, order] for order in range(min(orders, extent.most(name)))]
        found.append(Replay(name, count, [course for course, _ in known]))
        taken = float(np.mean([seconds for _, seconds in known]))
        print(found[-1].row(), f"{taken:.2f} CPU s an order", flush=True)  # noqa: T201
    return found


def _timed(task: Task) -> tuple[Task, Course, float]:
    started = time.process_time()
    return task, _one(task), time.process_time() - started


def read_courses(path: Path | None) -> Iterator[tuple[Task, tuple[Course, float]]]:
    """What :func:`keep_course` wrote, with the CPU seconds."""
    if path is None or not path.exists():
        return
    for line in path.read_text().splitlines():
        name, workers, order, times, regret, best_lost, seconds = json.loads(line)
        yield (name, workers, order), (Course(tuple(times), regret, best_lost), seconds)


def keep_course(path: Path | None, task: Task, course: Course, seconds: float) -> None:
    """Add a finished course to a file, if there is to be one."""
    if path is not None:
        with path.open("a") as file:
            file.write(json.dumps([*task, *astuple(course), seconds]) + "\n")


def estimate_ways(table: Table) -> str:
    """How well ways to read a partial estimate predict the final score, as a table.

    Every trial is read after one, two or three folds, and at one of the three at random, as in a search.
    """
    repeats, rng = 50, np.random.default_rng(0)
    prior, by_fold = np.array(table.prior_kl), table.best[:, :, -1]
    measured: dict[tuple[str, int], list[tuple[float, float]]] = {}
    for _ in range(repeats):
        others = by_fold[rng.choice(table.count, 5, replace=False)].mean(axis=0)
        at = rng.integers(3, size=table.count)
        rows: dict[str, list[Floats]] = {}
        for folds in (1, 2, 3):
            plain = table.estimates[:, folds * table.epochs - 1]
            rows.setdefault("plain", []).append(plain)
            for name, hard in (("the prior's KL", prior), ("5 other trials' KL", others)):
                rows.setdefault(f"difference to {name}", []).append(plain - hard[:folds].mean() + hard.mean())
                scaled = comparable_estimate(plain, folds - 1, list(hard))
                rows.setdefault(f"ratio to {name}", []).append(np.asarray(scaled))
        for name, values in rows.items():
            mixed = np.stack(values)[at, np.arange(table.count)]
            for column, value in enumerate([*values, mixed]):
                error, rank = np.abs(value - table.cv).mean(), spearmanr(value, table.cv).statistic
                measured.setdefault((name, column), []).append((float(error), float(rank)))
    lines = ["| way | 1 fold | 2 folds | 3 folds | 1, 2 or 3, each its own |", "|---|---|---|---|---|"]
    for name in dict.fromkeys(name for name, _ in measured):
        means = [np.mean(measured[name, column], axis=0) for column in range(4)]
        lines.append(f"| {name} | " + " | ".join(f"{error:.4f} ({rank:.3f})" for error, rank in means) + " |")
    return "\n".join(lines)


def ranks_early(table: Table) -> str:
    """How early the configurations are ranked, in words."""
    after = [1, 2, 4, table.epochs, 2 * table.epochs]
    found = [spearmanr(table.estimates[:, step - 1], table.cv).statistic for step in after]
    return ", ".join(f"{value:.2f} after {step}" for step, value in zip(after, found, strict=True))


def model_seconds(table: Table, *, trials: int = 1000, candidates: int = 200) -> tuple[float, float]:
    """Seconds of one choice among candidates: when length scales are fitted again, and when they are not."""
    known = rungs(table.epochs, table.folds)
    rng = np.random.default_rng(0)
    progress = []
    for number in range(trials):
        row, level = int(rng.integers(table.count)), int(rng.choice(len(known), p=_shares(len(known))))
        noise = 0.02 * rng.normal()
        estimates = {rung: table.estimates[row, rung - 1] + noise for rung in known[: level + 1]}
        state = "complete" if level == len(known) - 1 else "paused"
        progress.append(TrialProgress(number, table.params[row], known[level], estimates, state))
    others = [table.params[int(row)] for row in rng.integers(table.count, size=candidates)]
    surrogate, seconds = Surrogate(table.distributions, known), []
    for _ in range(2):
        started = time.process_time()
        surrogate.fit(progress).expected_improvement(others)
        seconds.append(time.process_time() - started)
    return seconds[0], seconds[1]


def _shares(levels: int) -> Floats:
    shares = 0.25 ** np.arange(levels)
    return np.asarray(shares / shares.sum())


def describe(table: Table) -> str:
    """What a table holds, in a sentence."""
    near = [int((table.cv <= table.goals[level]).sum()) for level in LEVELS]
    return (
        f"{table.count} configurations, {table.folds} folds × {table.epochs} epochs; final KL "
        f"{table.cv.min():.4f} (best), {np.median(table.cv):.4f} (median), {np.mean(table.prior_kl):.4f} "
        f"(class prior); within 1, 2, 5 % of the best and among the best 1 %: {near[0]}, {near[1]}, "
        f"{near[2]}, {near[3]}. Spearman's ρ of the estimate with the final score: {ranks_early(table)} "
        "epochs."
    )


def choose(path: Path, extent: Extent) -> str:
    """Everything that is chosen, on the choosing table."""
    table = Table(path)
    sections = ["## What was chosen, and on what", describe(table)]
    sections += [
        "Mean absolute error of the predicted final score, and Spearman's ρ with it:",
        estimate_ways(table),
        f"Rungs, in epochs and folds, and reduction factors of `{PRODUCT}` (ORDERS orders): full "
        "trials per worker until one of the best 1 % is confirmed, sorted by the geometric mean of both:",
    ]
    found = replay(path, list(VARIANTS), extent)
    sections[-1] = sections[-1].replace("ORDERS", str(len(found[0].courses)))
    lines = ["| rungs, factor | 1 worker | 8 workers | 90 %, 1 worker |", "|---|---|---|---|"]
    scored = []
    for name in VARIANTS:
        one, eight = (
            next(each for each in found if (each.name, each.workers) == (name, count)) for count in (1, 8)
        )
        middle = [float(np.median(each.times[:, -1])) for each in (one, eight)]
        late = float(np.quantile(one.times[:, -1], 0.9))
        line = f"| {name} | {middle[0]:.2f} | {middle[1]:.2f} | {late:.2f} |"
        scored.append((middle[0] * middle[1], line))
    lines += [line for _, line in sorted(scored)]
    sections.append("\n".join(lines))
    return "\n\n".join(sections)


def report(path: Path, extent: Extent) -> str:
    """All strategies on the reporting table."""
    table, workers = Table(path), extent.workers
    found = replay(path, list(STRATEGIES), extent)
    by = {(each.name, each.workers): each for each in found}
    orders, costly = (len(by[name, workers[0]].courses) for name in (PRODUCT, min(COSTLY)))
    fewer = f", of Optuna's GP over {costly}" if costly < orders else ""
    fitted, not_fitted = model_seconds(table)
    sections = [
        "## All strategies, on a table that nothing was chosen on",
        describe(table),
        "Mean absolute error of the predicted final score, and Spearman's ρ with it:",
        estimate_ways(table),
        f"Full trials per worker until a configuration of each level is confirmed: median over "
        f"{orders} orders{fewer} (90th percentile); the 95 % interval is of the median for the best "
        "1 %. Regret is the "
        "held-out KL of the confirmed best above the lowest of the table, mean ± 1.96 standard errors, after "
        + ", ".join(f"{total} full trials in all on {count}" for count, total in REGRET_AFTER.items())
        + " workers (nothing confirmed: the median configuration). Never: no configuration of the best 1 % "
        "is ever confirmed; lost: the best of all was given up for ever.",
    ]
    for count in workers:
        head = ["strategy", *LEVELS, "95 % interval", "held-out regret"]
        head.append("never / lost" if count == 1 else "never")
        lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
        lines += [each.row() for each in found if each.workers == count]
        sections += [f"### {count} worker{'s' * (count > 1)}", "\n".join(lines)]
    lines = [
        "| strategy over `" + PRODUCT + "` | " + " | ".join(f"{count} workers" for count in workers) + " |"
    ]
    lines.append("|---" * (len(workers) + 1) + "|")
    for name in (*AGAINST, f"{PRODUCT}, folds one after another"):
        cells = [ratio(by[name, count], by[PRODUCT, count]) for count in workers]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    sections += [
        "## How many times as fast",
        "Ratio of the medians for the best 1 %, with a 95 % interval paired over orders:",
        "\n".join(lines),
        f"The model's choice among 200 candidates takes {not_fitted:.2f} s at 1,000 configurations, and "
        f"{fitted:.2f} s when its length scale is fitted again (CPU seconds).",
    ]
    return "\n\n".join(sections)


def write_section(text: str, *, first: bool) -> None:
    """Put one of the two halves into the results, and leave the other as it is."""
    path, mark = RESULTS / "search.md", "\n## All strategies"
    head = (
        "# How fast searches find a good configuration\n\n`python benchmarks/search.py choose` and "
        "`python benchmarks/search.py replay`, on tables of its `tabulate`.\n\n"
    )
    old = path.read_text() if path.exists() else head
    before, found, after = old.partition(mark)
    if first:
        path.write_text(head + text + "\n" + found + after)
    else:
        path.write_text(before.rstrip("\n") + "\n\n" + text + "\n")


def main() -> int:
    """Tabulate, choose or replay."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("tabulate", "choose", "replay"))
    parser.add_argument("table", type=Path, nargs="?")
    parser.add_argument("--orders", type=int, default=200)
    parser.add_argument("--costly-orders", type=int, default=24)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--workers", type=int, nargs="+", choices=REGRET_AFTER, default=list(REGRET_AFTER))
    parser.add_argument("--seed", type=int, default=0, help="of the competition and of the draw")
    parser.add_argument("--configurations", type=int, default=250)
    parser.add_argument("--patients", type=int, default=90)
    parser.add_argument("--minutes", type=float, default=60, help="nothing further begins after so long")
    parser.add_argument("--courses", type=Path, help="finished courses are kept here, to go on with")
    parser.add_argument("--folder", type=Path, help="the synthetic competition, kept here for another time")
    given = parser.parse_args()
    if given.what == "tabulate":
        if given.table is None:
            parser.error("tabulate needs the table's file")
        tabulate(
            given.folder or given.table.with_suffix(""),
            given.table,
            configurations=given.configurations,
            patients=given.patients,
            seed=given.seed,
            minutes=given.minutes,
        )
        return 0
    workers = (1, 8) if given.what == "choose" else tuple(given.workers)
    extent = Extent(given.orders, given.costly_orders, workers, given.processes, given.minutes, given.courses)
    if given.what == "choose":
        text = choose(given.table or CHOOSING, extent)
    else:
        text = report(given.table or REPORTING, extent)
    write_section(text, first=given.what == "choose")
    sys.stdout.write(text + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
