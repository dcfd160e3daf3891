"""How processes of this program start: without the working folder among the places of modules."""

from __future__ import annotations

import os
import threading
from multiprocessing.context import SpawnProcess

SAFE = "PYTHONSAFEPATH"
"""Python's own variable for ``python -P``."""

_starting = threading.Lock()


def start_safely(process: SpawnProcess) -> None:
    """Start a process that imports no module from the working folder.

    A new interpreter looks there first: a file beside a notebook that is called as a module of Python's own
    (signal, queue, types) would stand for it. The variable is set for the moment of the start alone: commands
    that this program runs for its user are the user's.
    """
    with _starting:
        before = os.environ.get(SAFE)
        os.environ[SAFE] = "1"
        try:
            process.start()
        finally:
            if before is None:
                del os.environ[SAFE]
            else:
                os.environ[SAFE] = before
