"""The same search for real: promotion, the median pruner and no pruning, each for the same wall time.

    python benchmarks/search_real.py [--seeds 1 2 3] [--minutes 20] [--epochs 10] [--patients 90]

For each seed a synthetic competition and, on it, one study per arm: the space of ``search_table.py``, a
worker of this machine with a slot on each core, an embedded PostgreSQL of the benchmark's own. When the time
is over the worker is asked to stop, and what is complete then counts. The best trial is retrained and scored
on the held-out patients. Written to ``benchmarks/results/search_real.md`` after every search.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import machine
from search_table import SPACE

from hms_tune.data.store.prepare import prepare
from hms_tune.data.synthetic import synthesize
from hms_tune.database.connect import open_storage, resolve_address
from hms_tune.errors import UsageError
from hms_tune.export.scores import read_scores
from hms_tune.studies.status import StudyStatus, status
from hms_tune.trial_state import TrialState

ARMS = {
    "promotion": "{seed: SEED}",
    "median": "{pruner: median, seed: SEED}",
    "none": "{sampler: random, pruner: none, seed: SEED}",
}
COMMAND = (sys.executable, "-m", "hms_tune")


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
    space = SPACE.partition("budget:")[0].replace("study: tabulated", f"study: real-{arm}-{seed}")
    space = space.replace("epochs: 10", f"epochs: {given.epochs}").replace("holdout: 0.5", "holdout: 0.3")
    hours = given.minutes / 60
    search = ARMS[arm].replace("SEED", str(seed))
    return (
        f"{space}search: {search}\nbudget: {{trials: {given.trials}, hours: {hours}}}\n"
        "tracking: {wandb: {mode: off}}\n"
    )


def search(arm: str, seed: int, root: Path, folder: Path, given: argparse.Namespace) -> Outcome:
    """Search for the time given, then score the winner."""
    file, home = folder / f"{arm}-{seed}.yaml", folder / "home"
    file.write_text(study_text(arm, seed, given))
    name, log = f"real-{arm}-{seed}", folder / f"{arm}-{seed}.log"
    environment = os.environ | {
        "HMS_TUNE_HOME": str(home),
        "HMS_TUNE_ARTIFACTS": str(folder / "store"),
        "WANDB_MODE": "disabled",
    }
    environment.pop("HMS_TUNE_STORAGE", None)
    slots = ["--device", "cpu", "--slots-per-device", str(machine.cores())]
    started = time.monotonic()
    with log.open("wb") as lines:
        command = [*COMMAND, "worker", "--study", str(file), "--data", str(root), *slots]
        worker = subprocess.Popen(command, env=environment, stdout=lines, stderr=lines)
        try:
            worker.wait(60 * given.minutes)
        except subprocess.TimeoutExpired:
            worker.send_signal(signal.SIGTERM)
            worker.wait(120)
    minutes = (time.monotonic() - started) / 60
    if worker.returncode != 0:
        raise UsageError(f"the worker ended with {worker.returncode}", where=str(log), hint="Read its log")
    storage = open_storage(resolve_address(None, home=home))
    try:
        shown: StudyStatus = status(storage, name)
    finally:
        storage.close()
    held_out = None
    if shown.best is not None:
        out = folder / "bundles" / name
        export = [*COMMAND, "export-best", "--study", name, "--data", str(root), "--out", str(out)]
        subprocess.run([*export, "--device", "cpu"], env=environment, check=True, capture_output=True)
        held_out = read_scores(out).held_out_kl
    begun = sum(number for state, number in shown.trials.items() if state.uses_budget)
    kl = None if shown.best is None else shown.best.value
    return Outcome(seed, arm, minutes, begun, shown.trials[TrialState.COMPLETE], kl, held_out)


def lines(outcomes: list[Outcome], given: argparse.Namespace) -> list[str]:
    """The result as Markdown."""
    names = ["seed", "search", "minutes", "trials begun", "complete", "best confirmed KL", "held-out KL"]
    return [
        "# Searches for real, at equal wall time",
        "",
        "`python benchmarks/search_real.py " + " ".join(sys.argv[1:]) + "`",
        "",
        f"{machine.device_name()}; {given.patients} patients, 5 folds × {given.epochs} epochs, "
        f"{given.minutes:g} minutes for each search. promotion: the model of learning curves; median: with "
        "TPE; none: random draws, every trial to its end.",
        "",
        *machine.table(names, [outcome.cells() for outcome in outcomes]),
    ]


def main() -> int:
    """Search with each seed and arm, and write after each what is known."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--trials", type=int, default=60)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--patients", type=int, default=90)
    given = parser.parse_args()
    outcomes = []
    for seed in given.seeds:
        with tempfile.TemporaryDirectory(prefix="hms-tune-search-real-") as folder:
            root = Path(folder) / "hms"
            synthesize(root, patients=given.patients, seed=seed)
            prepare(root)
            for arm in ARMS:
                outcomes.append(search(arm, seed, root, Path(folder), given))
                machine.show(" | ".join(outcomes[-1].cells()))
                machine.write_result("search_real", lines(outcomes, given))
    return 0


if __name__ == "__main__":
    sys.exit(main())
