"""What child processes of tests do, in a module that they import in no time."""

from __future__ import annotations

import os
import sys
from multiprocessing.connection import Connection


def tell_folder(pipe: Connection) -> None:
    """Import what processes import, and say that it worked."""
    import queue
    import types

    assert hasattr(queue, "SimpleQueue")
    assert hasattr(types, "SimpleNamespace")
    pipe.send(os.getcwd())


def tell_line(text: str, pipe: Connection) -> None:
    """Say something on stderr and through the pipe, and end badly."""
    sys.stderr.write(f"heard: {text}\n")
    pipe.send((text, sys.stdin.read()))
    sys.exit(3)


def wait(pipe: Connection) -> None:
    """Do nothing until killed."""
    pipe.send("waits")
    pipe.recv()
