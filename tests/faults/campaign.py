"""A search under fire: workers killed, paused, cut off, their database restarted; then the checker's report.

python tests/faults/campaign.py --seeds 1 2 3 --trials 110 --kills 70
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path

import history
from checker import Verdict, check
from fleet import Fleet, Orders, put_out_after, recover_and_die, told
from proxy import Proxy
from server import OwnServer, own_server
from sqlalchemy import text
from tiny import study_file, undisturbed

from hms_tune.database.connect import Storage, open_storage
from hms_tune.search.optuna_private import trial_id_of
from hms_tune.worker.open_study import open_search

LEASE_S = 4.0


@dataclass(frozen=True, slots=True)
class Plan:
    """How hard a campaign is.

    ``restarts`` is how often the database is killed; ``asleep_s`` is after how long it puts out a worker that
    was paused in a transaction, and until when the others wait for it; with ``promotion`` trials pause.
    """

    seed: int
    trials: int
    kills: int
    workers: int = 6
    pauses: int = 3
    restarts: int = 1
    cuts: int = 3
    stalls: int = 2
    swallowed: int = 20
    most_s: float = 1200.0
    epoch_s: float = 0.03
    asleep_s: float = 60.0
    promotion: bool = False


@dataclass(slots=True)
class Outcome:
    """What was done to a search, and how it stood it."""

    plan: Plan
    verdict: Verdict
    faults: Counter[str]
    seconds: float
    errors: list[str] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        return not self.verdict.violations and not self.errors

    def __str__(self) -> str:
        faults = ", ".join(f"{number} {name}" for name, number in sorted(self.faults.items()))
        lines = [f"seed {self.plan.seed}, {self.seconds:.0f} s", f"faults: {faults}", str(self.verdict)]
        return "\n".join([*lines, *(f"a worker ended with an error: {error}" for error in self.errors)])


def run(plan: Plan) -> Outcome:
    """Run one search under fire."""
    with own_server() as server, tempfile.TemporaryDirectory(prefix="hms-tune-faults-") as folder:
        return _Campaign(plan, server, Path(folder)).run()


class _Campaign:
    def __init__(self, plan: Plan, server: OwnServer, folder: Path) -> None:
        self.plan = plan
        self.server = server
        self.folder = folder
        self.draw = random.Random(plan.seed)
        self.faults: Counter[str] = Counter()
        self.proxy = Proxy(server.url)
        self.storage: Storage = open_storage(server.url)
        self.fleet = Fleet()
        self.study = study_file("faults", trials=plan.trials, seed=plan.seed, promotion=plan.promotion)
        self.paused: dict[str, float] = {}
        self.started = 0

    def run(self) -> Outcome:
        began = time.monotonic()
        open_search(self.storage, self.study)
        history.begin(self.storage.engine)
        for number in range(self.plan.workers):
            self._start(f"worker{number}")
        due = self._schedule()
        while (done := self._ended()) < self.plan.trials or self.paused:
            if time.monotonic() - began > self.plan.most_s:
                break  # the checker says what is stuck
            self._wake()
            while due and due[0][0] <= done / self.plan.trials:
                if not getattr(self, f"_{due[0][1]}")():
                    break  # nobody is there to suffer it; it comes a little later
                due.pop(0)
            self._replace_the_dead()
            time.sleep(0.05)
        for name, process in self.fleet.workers.items():
            if name.startswith("worker"):  # a recovery that found nothing to do waits for ever
                process.join(timeout=60.0)
        self.fleet.close()
        facts, reference = self._story()
        self.faults["swallowed COMMIT replies"] = self.proxy.swallowed
        outcome = Outcome(
            self.plan,
            check(facts, reference, trials=self.plan.trials),
            self.faults,
            time.monotonic() - began,
            [path.read_text() for path in self.folder.glob("*.error")],
        )
        self.proxy.close()
        self.storage.close()
        return outcome

    def _schedule(self) -> list[tuple[float, str]]:
        """Each fault at a share of the search that is done; all come before its end."""
        plan = self.plan
        counts = {
            "kill": plan.kills - plan.kills // 8,
            "kill_recovery": plan.kills // 8,
            "pause": plan.pauses,
            "restart": plan.restarts,
            "cut": plan.cuts,
            "stall": plan.stalls,
            "swallow": plan.swallowed,
            "terminate": plan.cuts,
        }
        due = [(self.draw.uniform(0.0, 0.97), name) for name, number in counts.items() for _ in range(number)]
        return sorted(due)

    def _start(self, name: str) -> None:
        self.started += 1
        orders = Orders(
            url=put_out_after(self.proxy.url, self.plan.asleep_s),
            study_json=self.study.to_json(),
            folder=self.folder,
            name=name,
            lease_s=LEASE_S,
            epoch_s=self.plan.epoch_s,
            seed=self.plan.seed * 10_000 + self.started,
            full_disk=5,
            flips=5,
        )
        self.fleet.start(orders)

    def _replace_the_dead(self) -> None:
        for name, process in list(self.fleet.workers.items()):
            if not process.is_alive() and name.startswith("recovery"):
                self.faults["kills of a recovery"] += (self.folder / f"{name}.died").exists()
                process.join()
                del self.fleet.workers[name]

    def _victim(self) -> str | None:
        """A worker that is at a trial."""
        busy = self._busy()
        names = [
            name
            for name, process in self.fleet.workers.items()
            if name.startswith("worker") and name not in self.paused and process.pid in busy
        ]
        return self.draw.choice(sorted(names)) if names else None

    def _kill(self) -> bool:
        name = self._victim()
        if name is None:
            return False
        self.fleet.kill(name)
        self.faults["kills of a worker"] += 1
        self._start(name)
        return True

    def _kill_recovery(self) -> bool:
        """A process that does nothing but recover, and dies in the middle; with a victim to recover."""
        self.started += 1
        name = f"recovery{self.started}"
        seed = self.plan.seed * 10_000 + self.started
        self.fleet.start(replace(self.fleet.orders["worker0"], name=name, seed=seed), recover_and_die)
        return self._kill()

    def _pause(self) -> bool:
        name = self._victim()
        if name is None:
            return False
        self.fleet.signal(name, signal.SIGSTOP)
        self.faults["pauses past the lease"] += 1
        self.paused[name] = time.monotonic() + 1.5 * LEASE_S
        return True

    def _wake(self) -> None:
        for name, until in list(self.paused.items()):
            if time.monotonic() >= until:
                self.fleet.signal(name, signal.SIGCONT)
                del self.paused[name]

    def _restart(self) -> bool:
        self.storage.engine.dispose()
        self.server.kill()
        self.server.start()
        self.faults["database kills"] += 1
        return True

    def _cut(self) -> bool:
        self.proxy.cut()
        time.sleep(self.draw.uniform(0.2, 1.5))
        self.proxy.restore()
        self.faults["cuts"] += 1
        return True

    def _stall(self) -> bool:
        self.proxy.stall()
        time.sleep(self.draw.uniform(0.5, 2.5))
        self.proxy.restore()
        self.faults["stalls"] += 1
        return True

    def _swallow(self) -> bool:
        self.proxy.swallow_commits(1)
        return True

    def _terminate(self) -> bool:
        self.faults["dropped connections"] += self._scalar(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
            "WHERE application_name = 'hms-tune' AND pid <> pg_backend_pid()"
        )
        return True

    def _busy(self) -> set[int]:
        def ask() -> set[int]:
            with self.storage.engine.begin() as connection:
                rows = connection.execute(text("SELECT pid FROM hms_tune.attempts WHERE ended_at IS NULL"))
                return set(rows.scalars())

        return self.storage.through_outages(ask)

    def _ended(self) -> int:
        return self._scalar("SELECT count(*) FROM hms_tune.trials WHERE ended_at IS NOT NULL")

    def _scalar(self, statement: str) -> int:
        def ask() -> int:
            with self.storage.engine.begin() as connection:
                return int(connection.execute(text(statement)).scalar_one())

        return self.storage.through_outages(ask)

    def _story(self) -> tuple[list[history.Fact], dict]:
        trials = self.storage.optuna.get_all_trials(
            self.storage.optuna.get_study_id_from_name(self.study.study)
        )
        reference = {
            trial_id_of(trial): undisturbed(trial.params["training.learning_rate"], self.study.max_folds)
            for trial in trials
            if trial.state.name == "COMPLETE"
        }
        numbers = {trial.number: trial_id_of(trial) for trial in trials}
        return history.read(self.storage.engine) + told(self.folder, numbers), reference


def main() -> int:
    """Run a campaign for each seed, and print what the checker says."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--trials", type=int, default=110)
    parser.add_argument("--kills", type=int, default=70)
    parser.add_argument("--workers", type=int, default=6)
    parser.add_argument("--promotion", action="store_true", help="trials pause at rungs and are promoted")
    given = parser.parse_args()
    outcomes = []
    for seed in given.seeds:
        plan = Plan(
            seed=seed,
            trials=given.trials,
            kills=given.kills,
            workers=given.workers,
            promotion=given.promotion,
        )
        outcomes.append(run(plan))
        print(outcomes[-1], flush=True)  # noqa: T201
        print(flush=True)  # noqa: T201
    faults: Counter[str] = sum((outcome.faults for outcome in outcomes), Counter())
    kills = faults["kills of a worker"] + faults["kills of a recovery"]
    violations = sum(len(outcome.verdict.violations) for outcome in outcomes)
    print(  # noqa: T201
        f"{kills} kills over {sum(outcome.verdict.trials for outcome in outcomes)} trials, "
        f"{len(outcomes)} seeds: {violations} violations"
    )
    return 0 if all(outcome.clean for outcome in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
