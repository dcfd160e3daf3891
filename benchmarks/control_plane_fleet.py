"""Hosts the worker processes of ``control_plane.py``, for the code of one commit.

It imports everything once, from wherever ``PYTHONPATH`` says, and forks the workers of each cell; cells come
as lines of JSON on the standard input, and what was measured goes back as lines on the standard output.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import sys
import time
import traceback
from collections import Counter, defaultdict
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

# Optuna brings these along when it first looks at its tables; here once, not in each worker.
import alembic.command
import alembic.config
import alembic.script  # noqa: F401
import mako.template  # noqa: F401
import psycopg2.extras  # noqa: F401
from control_plane_arms import Arm, Measured, Ours, Stock, Task
from control_plane_counts import count_statements
from control_plane_prefill import write_fleet, write_trials

import hms_tune.studies.record_writer
import hms_tune.worker.open_study
import hms_tune.worker.slot  # noqa: F401

context = multiprocessing.get_context("fork")


def prepare(task: Task) -> None:
    """Make the study, with the trials that it is to hold; in a process whose connections end with it."""
    from hms_tune.config.study_file import StudyFile
    from hms_tune.database.connect import open_storage
    from hms_tune.search.suggest import distributions
    from hms_tune.worker.open_study import open_search

    storage = open_storage(task.url)
    study_file = StudyFile.parse(task.study_text, task.name)
    if task.stock:
        import optuna

        study_id = optuna.create_study(study_name=task.name, storage=storage.optuna)._study_id
    else:
        study_id = open_search(storage, study_file).study_id
    with storage.engine.begin() as connection:
        if task.in_study:
            write_trials(connection, task, study_id, distributions(study_file.space))
        if task.in_study and not task.stock:
            write_fleet(connection, study_id)
    with storage.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("VACUUM ANALYZE")
    storage.close()


def work(task: Task, index: int, gates: Any, left: Any, results: Connection) -> None:
    """One worker: a first trial, which joins the study, then the measured ones."""
    try:
        counts = count_statements(named=task.by_caller)
        measured = Measured()
        began = time.perf_counter()
        arm: Arm
        if task.stock:
            arm = Stock(task, index, measured, left=lambda: _take(left))
        else:
            arm = Ours(task, index, measured)
        arm.run(1)
        first_ended = time.perf_counter() - began
        first_asked = (measured.asked_at or began) - began
        gates.wait()
        counts.reset()
        measured.seconds.clear()
        measured.ended, measured.slept = 0, 0.0
        cpu, began = time.process_time(), time.perf_counter()
        gates.wait()
        arm.run(None)
        ended = time.perf_counter()
        cpu = time.process_time() - cpu
        memory = _private_bytes()
        gates.wait()
        gates.wait()  # the orchestrator has looked at the server
        arm.close()
        results.send(
            {
                "first_asked": first_asked,
                "first_ended": first_ended,
                "began": began,
                "ended": measured.last_end or ended,
                "trials": measured.ended,
                "slept": measured.slept,
                "cpu": cpu,
                "memory": memory,
                "statements": counts.statements,
                "transactions": counts.transactions,
                "seconds": dict(measured.seconds),
                "by_caller": dict(counts.by_caller),
                "seconds_by_caller": dict(counts.seconds_by_caller),
            }
        )
    except BaseException:
        traceback.print_exc()
        gates.abort()
        raise


def _take(left: Any) -> bool:
    with left.get_lock():
        left.value -= 1
        return bool(left.value >= 0)


def _private_bytes() -> int:
    """Memory of this process that no other has; what it shares with the host that forked it is left out."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Private_"))


def cell(task: Task, tell: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Run the workers of a cell; what they measured, put together.

    Parameters
    ----------
    tell : says something to the orchestrator, and waits until it has looked at the server
    """
    preparing = context.Process(target=prepare, args=(task,))
    preparing.start()
    preparing.join()
    if preparing.exitcode:
        raise SystemExit(f"the study could not be prepared: exit status {preparing.exitcode}")
    gates = context.Barrier(task.workers + 1)
    left = context.Value("i", task.trials)
    pipes, processes = [], []
    for index in range(task.workers):
        ours, theirs = context.Pipe()
        process = context.Process(target=work, args=(task, index, gates, left, theirs))
        process.start()
        pipes.append(ours)
        processes.append(process)
    gates.wait()
    tell({"all": "joined"})
    gates.wait()
    gates.wait()
    tell({"all": "ended"})
    gates.wait()
    each = [pipe.recv() for pipe in pipes]
    for process in processes:
        process.join()
    shutil.rmtree(task.folder, ignore_errors=True)
    seconds: dict[str, list[float]] = defaultdict(list)
    for one in each:
        for name, some in one["seconds"].items():
            seconds[name] += some
    total = {
        name: sum(one[name] for one in each)
        for name in ("trials", "slept", "cpu", "statements", "transactions")
    }
    wall = max(one["ended"] for one in each) - min(one["began"] for one in each)
    busy = sum(one["ended"] - one["began"] for one in each)
    return total | {
        "wall": wall,
        "busy": busy,
        "first_asked": [one["first_asked"] for one in each],
        "first_ended": [one["first_ended"] for one in each],
        "memory": [one["memory"] for one in each],
        "seconds": seconds,
        "by_caller": sum((Counter(one["by_caller"]) for one in each), Counter()),
        "seconds_by_caller": sum((Counter(one["seconds_by_caller"]) for one in each), Counter()),
    }


def main() -> None:
    """Serve the orchestrator."""
    told = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever prints is no answer

    def say(answer: dict[str, Any]) -> None:
        told.write(json.dumps(answer) + "\n")
        told.flush()

    def tell(answer: dict[str, Any]) -> None:
        say(answer)
        sys.stdin.readline()

    say({"ready": True})
    while line := sys.stdin.readline():
        say({"result": cell(Task(**json.loads(line)), tell)})


if __name__ == "__main__":
    main()
