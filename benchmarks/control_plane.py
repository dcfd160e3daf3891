"""What guards a trial costs beside stock Optuna: the same trials, workers and server, in turns.

    python benchmarks/control_plane.py                           # a few minutes on two CPU cores
    python benchmarks/control_plane.py --workers 64 --trials 640 --in-study 0 1000 10000
    python benchmarks/control_plane.py --beside COMMIT           # and the code of another commit
    python benchmarks/control_plane.py --trial-s 10 --workers 64 # the share of time outside training
    python benchmarks/control_plane.py --by-caller --workers 1   # where the statements of a trial come from

Arms, on one PostgreSQL of the benchmark's own:

* **stock**: Optuna's ``RDBStorage`` as it comes: ask with ten parameters, twenty times report and
  should_prune, tell; sampler and pruner set as the product sets them.
* **ours**: ``hms_tune.worker.slot.Slot`` with a worker's own settings and the recorder of trials, on a
  trainer that yields the events of such a trial and trains nothing.
* **COMMIT** (with ``--beside``): as ours, with the package as it was at that commit, in its own database.

A cell of the table is one study: it holds ``--in-study`` finished trials, written in bulk; each worker, a
process of its own, joins and runs a first trial, which is told as *join*; then all run ``--trials`` trials
together, and only these are counted. Workers of an arm are forked from one process that has imported
everything. Statements and transactions are counted in the workers, at psycopg2; connections by
``pg_stat_activity``, five times a second.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import threading
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from control_plane_arms import Task
from machine import DatabaseServer, device_name, median, show, table, write_result

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
CONNECTIONS = 1000
"""More than the embedded server's own limit: how many an arm wants is to be seen, not when it fails."""

HEADER = [
    "sampler",
    "workers",
    "in study",
    "arm",
    "trials/s",
    "claim, ms",
    "ask, ms",
    "report, ms",
    "tell, ms",
    "statements",
    "transactions",
    "connections",
    "database CPU, ms",
    "client CPU, ms",
    "join, s",
    "memory, MiB",
    "outside training",
]


class Host:
    """The process that imports the code of one commit and forks workers."""

    def __init__(self, code: Path) -> None:
        path = os.pathsep.join([str(HERE), str(code)])
        environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, str(HERE / "control_plane_fleet.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=tempfile.gettempdir(),  # not the checkout, which would be imported before PYTHONPATH
            env=environment,
        )
        self.heard()

    def say(self, line: str) -> None:
        """One line to the process."""
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def heard(self) -> dict[str, Any]:
        """Its next answer."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("the workers failed; what they said stands above")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


class Server:
    """A PostgreSQL of the benchmark's own, and how many connections it has."""

    def __init__(self, folder: Path) -> None:
        import psycopg2

        from hms_tune.database.connection.url import parse_address
        from hms_tune.database.embedded import cluster
        from hms_tune.database.embedded.server import start_embedded

        cluster.CONNECTIONS = CONNECTIONS
        self.url = start_embedded(folder / "postgres")
        self.processes = DatabaseServer(folder / "postgres")
        url = parse_address(self.url)
        self._connection = psycopg2.connect(
            url.set(drivername="postgresql").render_as_string(hide_password=False)
        )
        self._connection.autocommit = True
        self._most = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def database(self, name: str) -> str:
        """URL of a database of its own on the server: another commit's tables may be of another revision."""
        from hms_tune.database.connection.url import parse_address

        with self._connection.cursor() as cursor:
            cursor.execute(f'CREATE DATABASE "{name}"')
        url = parse_address(self.url).set(drivername="postgresql", database=name)
        return url.render_as_string(hide_password=False)

    def most_connections(self) -> int:
        """The most there were since this was asked last."""
        most, self._most = self._most, 0
        return most

    def close(self) -> None:
        """Stop watching."""
        self._over.set()
        self._thread.join()
        self._connection.close()

    def _watch(self) -> None:
        with self._connection.cursor() as cursor:
            while not self._over.wait(0.2):
                cursor.execute(
                    "SELECT count(*) FROM pg_stat_activity "
                    "WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
                )
                self._most = max(self._most, cursor.fetchone()[0])


@dataclass(frozen=True, slots=True)
class Cell:
    """What an arm came to."""

    arm: str
    task: Task
    told: dict[str, Any]
    connections: int
    database_cpu: float

    @property
    def row(self) -> list[str]:
        """A line of the table."""
        told, trials = self.told, self.told["trials"]
        times = [_times(told["seconds"].get(kind, [])) for kind in ("claim", "ask", "report", "tell")]
        outside = 1.0 - told["slept"] / told["busy"]
        return [
            self.task.sampler,
            str(self.task.workers),
            f"{self.task.in_study:,}",
            self.arm,
            f"{self.rate:.1f}",
            *times,
            f"{told['statements'] / trials:.0f}",
            f"{told['transactions'] / trials:.0f}",
            f"{self.connections} ({self.connections / self.task.workers:.1f})",
            f"{1000 * self.database_cpu / trials:.0f}",
            f"{1000 * told['cpu'] / trials:.0f}",
            f"{median(told['first_asked']):.1f} / {median(told['first_ended']):.1f}",
            f"{median(told['memory']) / 2**20:.0f}",
            f"{100 * outside:.1f} %" if self.task.trial_s else "",
        ]

    @property
    def rate(self) -> float:
        """Trials a second."""
        return float(self.told["trials"] / self.told["wall"])


def _times(seconds: list[float]) -> str:
    if not seconds:
        return ""
    middle, late = np.quantile(seconds, [0.5, 0.99])
    return f"{1000 * middle:.0f} / {1000 * late:.0f}"


def run(arm: str, host: Host, server: Server, task: Task) -> Cell:
    """One arm's turn."""
    host.say(json.dumps(asdict(task)))
    host.heard()
    server.most_connections()
    before = server.processes.cpu_seconds()
    host.say("go on")
    host.heard()
    used = server.processes.cpu_seconds() - before
    connections = server.most_connections()
    host.say("go on")
    told = host.heard()["result"]
    cell = Cell(arm, task, told, connections, used)
    show(" | ".join(cell.row))
    return cell


def code_of(commit: str, folder: Path) -> Path:
    """The package as it was at a commit, in a folder of its own."""
    place = folder / commit
    place.mkdir()
    archive = subprocess.Popen(
        ["git", "-C", str(ROOT), "archive", commit, "hms_tune"], stdout=subprocess.PIPE
    )
    with tarfile.open(fileobj=archive.stdout, mode="r|") as files:
        files.extractall(place, filter="data")
    if archive.wait():
        raise SystemExit(f"git archive {commit} failed")
    return place


def by_caller(cells: list[Cell], most: int = 40) -> list[str]:
    """Tables of what asked for the statements of a trial."""
    lines: list[str] = []
    for cell in cells:
        trials = cell.told["trials"]
        seconds = cell.told["seconds_by_caller"]
        rows = [
            [caller.replace("|", ":"), f"{count / trials:.1f}", f"{1000 * seconds[caller] / trials:.1f}"]
            for caller, count in sorted(cell.told["by_caller"].items(), key=lambda each: -each[1])[:most]
        ]
        title = (
            f"{cell.arm}, {cell.task.sampler}, {cell.task.workers} workers, {cell.task.in_study:,} in study"
        )
        lines += ["", f"## {title}", "", *table(["who asks: what", "a trial", "ms a trial"], rows)]
    return lines


def growth(cells: list[Cell]) -> list[str]:
    """How a trial's cost grows from the smallest study to the largest."""
    rows = []
    keys = sorted({(cell.task.sampler, cell.task.workers, cell.arm) for cell in cells})
    for sampler, workers, arm in keys:
        mine = [
            cell
            for cell in cells
            if (cell.task.sampler, cell.task.workers, cell.arm) == (sampler, workers, arm)
        ]
        first = min(mine, key=lambda cell: cell.task.in_study)
        last = max(mine, key=lambda cell: cell.task.in_study)
        if first.task.in_study == last.task.in_study:
            continue

        def ratio(key: str, first: Cell = first, last: Cell = last) -> str:
            mean = [each.told[key] / each.told["trials"] for each in (first, last)]
            return f"{mean[1] / mean[0]:.2f}"

        database = [each.database_cpu / each.told["trials"] for each in (first, last)]
        rows.append(
            [
                sampler,
                str(workers),
                arm,
                f"{first.task.in_study:,} to {last.task.in_study:,}",
                f"{first.rate / last.rate:.2f}",
                ratio("statements"),
                f"{database[1] / database[0]:.2f}",
                ratio("cpu"),
            ]
        )
    header = ["sampler", "workers", "arm", "in study", "time", "statements", "database CPU", "client CPU"]
    return ["", "## Growth of a trial's cost", "", *table(header, rows)] if rows else []


def report(cells: list[Cell], command: str, load: float) -> list[str]:
    """The result as Markdown."""
    import optuna

    trial_s = f", {cells[0].task.trial_s:g} s of sleep a trial" if cells[0].task.trial_s else ""
    return [
        "# The control plane beside stock Optuna",
        "",
        f"`{command}` on {device_name()}, Optuna {optuna.__version__}; load of the machine before it began: "
        f"{load:.1f}. {cells[0].task.trials} trials a cell{trial_s}.",
        "",
        *table(HEADER, [cell.row for cell in cells]),
        "",
        "* claim: recovery, and a unit of the budget; ask: until every parameter has its value; report: with "
        "the pruner's answer; tell. Median / 99th percentile",
        "* statements, transactions, CPU: a trial's; statements include pings of pooled connections, "
        "not BEGIN and COMMIT",
        "* connections: the most at once, of all workers (and of each)",
        "* join: from a worker's start, its libraries loaded, until its first trial has its values, and to "
        "that trial's end; memory: what a worker's process has for itself beyond what it was forked with",
        *growth(cells),
    ]


def main() -> None:
    """Run the benchmark and write its result."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--trials", type=int, default=48, help="trials of a cell, beside each worker's first")
    parser.add_argument("--in-study", type=int, nargs="+", default=[0, 1000], help="finished trials before")
    parser.add_argument("--samplers", nargs="+", default=["random", "tpe"], choices=["random", "tpe"])
    parser.add_argument("--arms", nargs="+", default=["stock", "ours"], choices=["stock", "ours"])
    parser.add_argument("--beside", nargs="*", default=[], metavar="COMMIT", help="other commits' code")
    parser.add_argument("--trial-s", type=float, default=0.0, help="sleep of a trial, s")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--by-caller", action="store_true", help="show who asks for what; times count less")
    parser.add_argument("--no-result", action="store_true", help="print only")
    asked = parser.parse_args()
    command = " ".join(["python benchmarks/control_plane.py", *sys.argv[1:]])
    load = os.getloadavg()[0]
    folder = Path(tempfile.mkdtemp(prefix="hms-tune-control-plane-"))
    cells: list[Cell] = []
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        server = Server(folder)
        stack.callback(server.close)
        hosts = dict.fromkeys(asked.arms, Host(ROOT))
        hosts |= {commit: Host(code_of(commit, folder)) for commit in asked.beside}
        for host in hosts.values():
            stack.callback(host.close)
        arms = list(hosts)
        urls = dict.fromkeys(asked.arms, server.url) | {each: server.database(each) for each in asked.beside}
        show(" | ".join(HEADER))
        sizes = itertools.product(range(asked.rounds), asked.samplers, asked.workers, asked.in_study)
        for number, (turn, sampler, workers, in_study) in enumerate(sizes):
            for place in range(len(arms)):
                arm = arms[(place + turn) % len(arms)]
                name = f"{sampler}-{number}-{arm}"
                task = Task(
                    stock=arm == "stock",
                    url=urls[arm],
                    name=name,
                    sampler=sampler,
                    workers=workers,
                    trials=asked.trials,
                    in_study=in_study,
                    trial_s=asked.trial_s,
                    folder=str(folder / name),
                    by_caller=asked.by_caller,
                )
                cells.append(run(arm, hosts[arm], server, task))
    lines = report(cells, command, load) + (by_caller(cells) if asked.by_caller else [])
    show("\n".join(["", *lines]))
    if not asked.no_result:
        show(f"\nwritten to {write_result('control_plane', lines).name}")


if __name__ == "__main__":
    main()
