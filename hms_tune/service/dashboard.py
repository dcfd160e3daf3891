"""optuna-dashboard on the fleet's own database."""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import optuna_dashboard
from optuna.artifacts import FileSystemArtifactStore

from hms_tune.errors import UsageError
from hms_tune.service.storage import Storage

_logger = logging.getLogger(__name__)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def dashboard_app(storage: Storage, artifacts: Path) -> Any:
    """The dashboard as a WSGI application, with the artifacts under ``artifacts``."""
    folder = artifacts / "dashboard"
    folder.mkdir(parents=True, exist_ok=True)
    return optuna_dashboard.wsgi(storage.optuna, artifact_store=FileSystemArtifactStore(str(folder)))


def serve_dashboard(
    storage: Storage,
    artifacts: Path,
    *,
    host: str = "127.0.0.1",
    port: int = 8080,
    started: Callable[[str], None] = lambda address: None,
) -> None:
    """Serve the dashboard until interrupted.

    Parameters
    ----------
    port : 0 takes a free one
    started : told the dashboard's address once it can be opened

    Raises
    ------
    UsageError
        If the address is not this machine's own, or the port is taken.
    """
    check_host(host)
    try:
        server = make_server(
            host, port, dashboard_app(storage, artifacts), server_class=_Server, handler_class=_QuietHandler
        )
    except OSError as error:
        raise UsageError(
            f"port {port} cannot be used: {error.strerror}", where="--port", mend="Choose another --port"
        ) from error
    with server:
        started(f"http://{host}:{server.server_port}/dashboard/")
        server.serve_forever(poll_interval=0.2)


def check_host(host: str) -> None:
    """Refuse to serve others: whoever reaches the dashboard can delete every study.

    Raises
    ------
    UsageError
        If ``host`` is not a loopback address.
    """
    if not is_loopback(host):
        raise UsageError(
            f"the dashboard has no authentication, and {host} is open to others",
            where="--host",
            mend="Keep 127.0.0.1 and open a tunnel: ssh -L 8080:127.0.0.1:8080 THIS_MACHINE",
        )


class _Server(WSGIServer):
    """Says nothing of a browser that closes a connection early."""

    def handle_error(self, request: Any, client_address: Any) -> None:
        _logger.debug("request from %s failed", client_address, exc_info=True)


class _QuietHandler(WSGIRequestHandler):
    """No line per request."""

    def log_message(self, format: str, *args: Any) -> None:
        _logger.debug(format, *args)
