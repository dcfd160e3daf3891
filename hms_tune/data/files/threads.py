"""Files handled side by side.

Threads, not processes: decoding (pyarrow) and arithmetic (NumPy) run outside the interpreter lock, and
threads start at once, share memory, and die with the process that a `kill -9` hits.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import TypeVar

Task = TypeVar("Task")
Result = TypeVar("Result")


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
    work: Callable[[Task], Result], tasks: Iterable[Task], *, jobs: int, ahead: int
) -> Generator[Result]:
    """Yield the result of each task in the order of the tasks; at most ``ahead`` are under way or wait.

    When the consumer stops or a task raises, tasks not yet begun never begin.
    """
    remaining = iter(tasks)
    coming: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(jobs) as pool:
        try:
            coming.extend(pool.submit(work, task) for task in itertools.islice(remaining, ahead))
            while coming:
                result = coming.popleft().result()
                coming.extend(pool.submit(work, task) for task in itertools.islice(remaining, 1))
                yield result
        finally:
            for future in coming:
                future.cancel()
