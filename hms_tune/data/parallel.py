"""Files handled side by side.

Threads, not processes: decoding (pyarrow) and arithmetic (NumPy) run outside the interpreter lock, and
threads start at once, share memory, and die with the process that a `kill -9` hits.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import TypeVar

Task = TypeVar("Task")
Result = TypeVar("Result")


def available_cores() -> int:
    """Cores this process may use, which in a container are fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def unordered(
    work: Callable[[Task], Result], tasks: Iterable[Task], *, jobs: int
) -> Iterator[tuple[Task, Result]]:
    """Yield each task with its result as soon as it is done; at most ``4 * jobs`` are under way.

    When the consumer stops or a task raises, tasks not yet begun never begin.
    """
    remaining = iter(tasks)
    running: dict[Future[Result], Task] = {}
    with ThreadPoolExecutor(jobs) as pool:
        try:
            exhausted = False
            while running or not exhausted:
                while not exhausted and len(running) < 4 * jobs:
                    try:
                        task = next(remaining)
                    except StopIteration:
                        exhausted = True
                    else:
                        running[pool.submit(work, task)] = task
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    yield running.pop(future), future.result()
        finally:
            for future in running:
                future.cancel()


def ordered(
    work: Callable[[Task], Result],
    tasks: Iterable[Task],
    *,
    jobs: int,
    cost: Callable[[Task], int],
    budget: int,
) -> Iterator[Result]:
    """Yield the results in the order of the tasks, as they become ready.

    A task begins only while the costs of all that are under way or not yet consumed stay within the budget
    (one task may always be), and while there are at most ``16 * jobs`` of them. When the consumer stops or a
    task raises, tasks not yet begun never begin.

    Parameters
    ----------
    work : called in ``jobs`` threads
    tasks : consumed as far ahead as the budget allows
    cost : what a task takes from the budget
    budget : the most that may be taken at once
    """
    under_way: deque[tuple[Future[Result], int]] = deque()
    taken = 0
    with ThreadPoolExecutor(jobs) as pool:
        try:
            for task in tasks:
                price = cost(task)
                while under_way and (taken + price > budget or len(under_way) >= 16 * jobs):
                    future, returned = under_way.popleft()
                    yield future.result()
                    taken -= returned
                under_way.append((pool.submit(work, task), price))
                taken += price
            while under_way:
                yield under_way.popleft()[0].result()
        finally:
            for future, _ in under_way:
                future.cancel()
