"""The same search for real: promotion, the median pruner and no pruning, side by side for the same wall time.

    python benchmarks/search_real.py [--seeds 1 2 3] [--minutes 20] [--epochs 10] [--patients 160]

For each seed a synthetic competition and, on it, one study per arm: the space of ``search_table.py``, a
worker of this machine with a slot on each core. The three workers run at the same time, so whatever else the
machine does slows all of them; they share an embedded PostgreSQL of the benchmark's own. When the time is
over they are asked to stop, and what is complete then counts. The best trial of each is retrained and scored
on the held-out patients. Written to ``benchmarks/results/search_real.md`` after every seed.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import machine
import psutil
from search_table import SPACE

from hms_tune.data.store.prepare import prepare
from hms_tune.data.synthetic import synthesize
from hms_tune.database.connect import open_storage, resolve_address
from hms_tune.errors import UsageError
from hms_tune.export.scores import read_scores
from hms_tune.studies.status import status
from hms_tune.trial_state import TrialState

ARMS = {
    "promotion": "{seed: SEED}",
    "median": "{pruner: median, seed: SEED}",
    "none": "{sampler: random, pruner: none, seed: SEED}",
}
COMMAND = (sys.executable, "-m", "hms_tune")
# What `hms-tune worker` ends with when the study is over, and when it was asked to stop.
WORKER_ENDS = (os.EX_OK, os.EX_TEMPFAIL)
MANY_TRIALS = 100_000
"""A budget that no search uses up: a smaller one would end early where trials are cheap."""
STOP_S = 120.0


@dataclass(frozen=True)
class Outcome:
    """What one search came to; KL are None where no trial was complete when the time was over."""

    seed: int
    arm: str
    minutes: float
    begun: int
    complete: int
    kl: float | None
    held_out_kl: float | None

    def cells(self) -> list[str]:
        """A row of the table."""
        scores = ["–" if value is None else f"{value:.4f}" for value in (self.kl, self.held_out_kl)]
        counts = [f"{self.minutes:.1f}", str(self.begun), str(self.complete)]
        return [str(self.seed), self.arm, *counts, *scores]


def study_text(arm: str, seed: int, given: argparse.Namespace) -> str:
    """The study file of an arm."""
    space = SPACE.partition("budget:")[0].replace("study: tabulated", f"study: {study_name(arm, seed)}")
    space = space.replace("epochs: 10", f"epochs: {given.epochs}").replace("holdout: 0.5", "holdout: 0.3")
    hours = given.minutes / 60
    search = ARMS[arm].replace("SEED", str(seed))
    return (
        f"{space}search: {search}\nbudget: {{trials: {MANY_TRIALS}, hours: {hours}}}\n"
        "tracking: {wandb: {mode: off}}\n"
    )


@dataclass
class Search:
    """A worker under way for one arm; ``minutes`` is how long it ran, once it has ended."""

    seed: int
    arm: str
    process: psutil.Popen
    log: Path
    minutes: float | None = None

    @property
    def study(self) -> str:
        """The study's name."""
        return study_name(self.arm, self.seed)


def study_name(arm: str, seed: int) -> str:
    """The name of an arm's study."""
    return f"real-{arm}-{seed}"


def own_environment(folder: Path) -> dict[str, str]:
    """The environment of the benchmark's commands: its own server, and its own store."""
    given = {name: value for name, value in os.environ.items() if name != "HMS_TUNE_STORAGE"}
    own = {"HMS_TUNE_HOME": str(folder / "home"), "HMS_TUNE_ARTIFACTS": str(folder / "store")}
    return given | own | {"WANDB_MODE": "disabled"}


def begin(arm: str, seed: int, root: Path, folder: Path, given: argparse.Namespace) -> Search:
    """Start an arm's worker."""
    file, log = folder / f"{arm}-{seed}.yaml", folder / f"{arm}-{seed}.log"
    file.write_text(study_text(arm, seed, given))
    slots = ["--device", "cpu", "--slots-per-device", str(machine.cores())]
    command = [*COMMAND, "worker", "--study", str(file), "--data", str(root), *slots]
    with log.open("wb") as lines:
        # A session each: Linux shares the processor among sessions, not among their threads.
        process = psutil.Popen(
            command, env=own_environment(folder), stdout=lines, stderr=lines, start_new_session=True
        )
    return Search(seed, arm, process, log)


def wait(searches: list[Search], minutes: float) -> None:
    """Let the workers run until their search or the time is over, then ask them to stop; none is left."""
    started = time.monotonic()
    by_pid = {search.process.pid: search for search in searches}

    def ended(process: psutil.Popen) -> None:
        by_pid[process.pid].minutes = (time.monotonic() - started) / 60

    running = [search.process for search in searches]
    try:
        _, running = psutil.wait_procs(running, 60 * minutes, ended)
        for process in running:
            process.terminate()
        _, running = psutil.wait_procs(running, STOP_S, ended)
    finally:
        for process in running:
            with suppress(psutil.NoSuchProcess):
                process.kill()
    if running:
        raise UsageError(f"the worker did not end within {STOP_S:g} s", where=by_pid[running[0].pid].study)


def outcome(search: Search, root: Path, folder: Path) -> Outcome:
    """What a search that has ended came to, and the held-out score of its winner."""
    if search.process.returncode not in WORKER_ENDS:
        hint = search.log.read_text(errors="replace")[-2000:]
        raise UsageError(f"the worker ended with {search.process.returncode}", where=search.study, hint=hint)
    environment = own_environment(folder)
    storage = open_storage(resolve_address(None, home=Path(environment["HMS_TUNE_HOME"])))
    try:
        shown = status(storage, search.study)
    finally:
        storage.close()
    held_out = None
    if shown.best is not None:
        out = folder / "bundles" / search.study
        export = [*COMMAND, "export-best", "--study", search.study, "--data", str(root), "--out", str(out)]
        subprocess.run([*export, "--device", "cpu"], env=environment, check=True, capture_output=True)
        held_out = read_scores(out).held_out_kl
    begun = sum(number for state, number in shown.trials.items() if state.uses_budget)
    kl = None if shown.best is None else shown.best.value
    complete = shown.trials[TrialState.COMPLETE]
    return Outcome(search.seed, search.arm, search.minutes or 0.0, begun, complete, kl, held_out)


def lines(outcomes: list[Outcome], given: argparse.Namespace) -> list[str]:
    """The result as Markdown."""
    names = ["seed", "search", "minutes", "trials begun", "complete", "best confirmed KL", "held-out KL"]
    return [
        "# Searches for real, side by side for the same wall time",
        "",
        "`python benchmarks/search_real.py " + " ".join(sys.argv[1:]) + "`",
        "",
        f"{machine.device_name()}; {given.patients} patients, 5 folds × {given.epochs} epochs, "
        f"{given.minutes:g} minutes for each search, three at a time. "
        "promotion: the model of learning curves; median: with TPE; none: random draws, each trained to its "
        "end.",
        "",
        *machine.table(names, [outcome.cells() for outcome in outcomes]),
    ]


def main() -> int:
    """Search with each seed, and write after each what is known."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--patients", type=int, default=160)
    given = parser.parse_args()
    outcomes = []
    for seed in given.seeds:
        with tempfile.TemporaryDirectory(prefix="hms-tune-search-real-") as folder:
            root = Path(folder) / "hms"
            synthesize(root, patients=given.patients, seed=seed)
            prepare(root)
            searches = [begin(arm, seed, root, Path(folder), given) for arm in ARMS]
            wait(searches, given.minutes)
            for search in searches:
                outcomes.append(outcome(search, root, Path(folder)))
                machine.show(" | ".join(outcomes[-1].cells()))
            machine.write_result("search_real", lines(outcomes, given))
    return 0


if __name__ == "__main__":
    sys.exit(main())
