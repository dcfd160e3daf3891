"""Local servers for tests."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from socketserver import BaseServer
from typing import Any

from hms_tune.reports.dashboard.access import Gate
from hms_tune.reports.dashboard.server import dashboard_server


@contextmanager
def served(server: BaseServer) -> Iterator[str]:
    """Answer requests in a thread until the block ends, then close the server. Gives its address."""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def serving_dashboard(application: Gate, *, host: str = "127.0.0.1") -> Iterator[Any]:
    """Serve the dashboard as its command does, in a thread. Gives the server."""
    server = dashboard_server(application, host=host, port=0)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.task_dispatcher.shutdown()
        server.trigger.pull_trigger(server.close)
        thread.join(20.0)
