"""Many workers claim trials of one study at once: how fast, and whether anything is given out twice.

::

    python benchmarks/claims.py --claims 10000 --workers 64

starts a PostgreSQL of its own, lets every worker claim trials and hand them back as fast as it can until so
many claims were made, and then judges the table of leases: of one trial no two leases may have been live at
the same moment, and no more trials may exist than the budget holds. Exits 1 if that is not so.
"""

from __future__ import annotations

import argparse
import itertools
import shutil
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import optuna
from sqlalchemy import func, select, text

from hms_tune.database.connect import Storage, open_storage
from hms_tune.database.connection.connections import connector
from hms_tune.database.connection.url import DRIVER, parse_address, redacted
from hms_tune.database.embedded.server import start_embedded
from hms_tune.database.optuna_storage import PatientStorage
from hms_tune.database.queue.attempt import Result
from hms_tune.database.queue.claim import Budget, Refusal, claim, register_study
from hms_tune.database.queue.end import end_lease_and_trial
from hms_tune.database.queue.lease import Holder, Lease, lock_lease
from hms_tune.database.tables import attempts, trials
from hms_tune.machine.processes import this_process
from hms_tune.trial_state import AttemptState

HELD = 2


@dataclass(frozen=True, slots=True)
class Report:
    """What a storm of claims came to."""

    claims: int
    refused: int
    trials: int
    doubles: int
    seconds: float

    def __str__(self) -> str:
        return (
            f"{self.claims:,} claims of {self.trials} trials in {self.seconds:.1f} s "
            f"({self.claims / self.seconds:.0f}/s; {self.refused:,} more refused): {self.doubles} double"
        )


def storm(database_url: str, name: str, *, claims: int, workers: int, trials: int) -> Report:
    """Let ``workers`` claim until ``claims`` were given out.

    A worker holds up to three trials and hands the oldest back, so that together they want more than there
    are, and trials that wait are fought over as much as new ones.
    """
    with opened(database_url, connections=workers) as storage:
        optuna.create_study(study_name=name, storage=storage.optuna)
        study_id = register_study(storage, name, Budget(trials=trials))
        left = itertools.count()
        gate = threading.Barrier(workers + 1)

        def work(worker: int) -> int:
            refused = 0
            holder = Holder(f"worker-{worker}", "slot", this_process())
            gate.wait()
            mine: deque[Lease] = deque()
            while next(left) < claims:
                while not isinstance(lease := claim(storage, study_id, holder, lease_s=600.0), Lease):
                    assert lease is Refusal.OTHERS_RUNNING, lease
                    refused += 1
                    if mine:
                        hand_back(mine.popleft())
                mine.append(lease)
                if len(mine) > HELD:
                    hand_back(mine.popleft())
            for lease in mine:
                hand_back(lease)
            return refused

        def hand_back(lease: Lease) -> None:
            with storage.transaction() as connection:
                lock_lease(connection, lease)
                end_lease_and_trial(connection, lease, Result(AttemptState.REQUEUED), set_aside=False)

        with ThreadPoolExecutor(workers) as pool:
            working = [pool.submit(work, worker) for worker in range(workers)]
            gate.wait()
            began = time.perf_counter()
            refused = sum(each.result() for each in working)
            seconds = time.perf_counter() - began
        return _judged(storage, study_id, refused=refused, seconds=seconds)


def _judged(storage: Storage, study_id: int, *, refused: int, seconds: float) -> Report:
    """Compare every lease with the next one of the same trial, by the database's clock."""
    following = func.lead(attempts.c.claimed_at).over(
        partition_by=attempts.c.trial_id, order_by=attempts.c.lease_id
    )
    history = (
        select(attempts.c.ended_at, following.label("next")).where(attempts.c.study_id == study_id).subquery()
    )
    with storage.engine.connect() as connection:
        claims = connection.execute(
            select(func.count()).select_from(attempts).where(attempts.c.study_id == study_id)
        ).scalar_one()
        begun = connection.execute(
            select(func.count()).select_from(trials).where(trials.c.study_id == study_id)
        ).scalar_one()
        doubles = connection.execute(
            select(func.count())
            .select_from(history)
            .where(text("next IS NOT NULL AND (ended_at IS NULL OR ended_at > next)"))
        ).scalar_one()
    return Report(claims, refused, begun, doubles, seconds)


@contextmanager
def opened(database_url: str, *, connections: int) -> Iterator[Storage]:
    """A storage whose pool has a connection for each of many threads, as if each were a process."""
    url = parse_address(database_url)
    open_storage(url).close()
    # What a claim sees does not depend on when the disk has it.
    connect = connector(url, synchronous_commit="off")
    pool = {"creator": connect, "pool_size": connections, "max_overflow": connections}
    backend = PatientStorage(f"{DRIVER}://", engine_kwargs=pool, skip_table_creation=True)
    storage = Storage(engine=backend.engine, optuna=backend, address=redacted(url))
    try:
        yield storage
    finally:
        storage.close()


def main() -> int:
    """Run the storm that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--claims", type=int, default=10_000)
    parser.add_argument("--workers", type=int, default=64)
    parser.add_argument("--trials", type=int, default=100, help="budget of the study")
    asked = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="hms-tune-claims-"))
    try:
        report = storm(
            start_embedded(folder / "postgres"),
            "storm",
            claims=asked.claims,
            workers=asked.workers,
            trials=asked.trials,
        )
    finally:
        # The server stops when this process exits; its files are no longer needed then.
        shutil.rmtree(folder, ignore_errors=True)
    sys.stdout.write(f"{report}\n")
    return 0 if report.doubles == 0 and report.trials <= asked.trials else 1


if __name__ == "__main__":
    sys.exit(main())
