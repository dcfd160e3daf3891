"""optuna-dashboard on the fleet's own database."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import optuna_dashboard
from optuna.storages import get_storage

from hms_tune.database.connect import Storage
from hms_tune.errors import UsageError
from hms_tune.reports.dashboard.access import Gatekeeper, is_loopback
from hms_tune.reports.dashboard.files import dashboard_store, writable_store
from hms_tune.reports.dashboard.trial_notes import TrialNotes

_logger = logging.getLogger(__name__)


def dashboard_app(
    storage: Storage, artifacts: Path, *, password: str | None = None, writable: bool = False
) -> Gatekeeper:
    """The dashboard as a WSGI application, with the artifacts under ``artifacts``.

    Parameters
    ----------
    storage : opened with :func:`~hms_tune.database.read_only.open_read_only`, unless it is to be writable
    password : asked of everyone; None: of nobody
    writable : whether notes, artifacts, and studies may be changed and deleted
    """
    store = writable_store(artifacts) if writable else dashboard_store(artifacts)
    # Ended trials are read once, not again with each poll of an open page: of 1,000 trials that is most of
    # what a page costs the server.
    cached = get_storage(storage.optuna)
    application = TrialNotes(optuna_dashboard.wsgi(cached, artifact_store=store), storage)
    return Gatekeeper(application, password=password, writable=writable)


def serve_dashboard(
    application: Gatekeeper,
    *,
    host: str = "127.0.0.1",
    port: int = 8080,
    started: Callable[[str], None] = lambda address: None,
) -> None:
    """Serve the dashboard until interrupted; a slow answer holds up no other.

    Parameters
    ----------
    port : 0 takes a free one
    started : told the dashboard's address once it can be opened

    Raises
    ------
    UsageError
        If the port is taken, or the address is not of this machine.
    """
    server_class = _Server6 if ":" in host else _Server
    try:
        server = make_server(host, port, application, server_class=server_class, handler_class=_QuietHandler)
    except OSError as error:
        raise UsageError(
            f"{host}, port {port}, cannot be used: {error.strerror}",
            where="--port",
            mend="Choose another --port",
        ) from error
    with server:
        shown = f"[{host}]" if ":" in host else host
        started(f"http://{shown}:{server.server_port}/dashboard/")
        server.serve_forever(poll_interval=0.2)


def check_exposure(host: str, password: str | None) -> None:
    """Refuse to serve others without a password.

    Raises
    ------
    UsageError
        If ``host`` is not a loopback address and there is no password.
    """
    if password is None and not is_loopback(host):
        raise UsageError(
            f"{host} is open to others, and there is no password",
            where="--host",
            mend="Set HMS_TUNE_DASHBOARD_PASSWORD, or keep 127.0.0.1 and open a tunnel: "
            "ssh -L 8080:127.0.0.1:8080 THIS_MACHINE",
        )


class _Server(ThreadingMixIn, WSGIServer):
    """One thread per request. A browser that closes a connection early is logged for debugging alone."""

    daemon_threads = True

    def server_bind(self) -> None:
        """Bind without asking a name server for this machine's name, which may take long."""
        with suppress(AttributeError):
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])
        self.setup_environ()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log it for debugging."""
        _logger.debug("request from %s failed", client_address, exc_info=True)


class _Server6(_Server):
    address_family = socket.AF_INET6


class _QuietHandler(WSGIRequestHandler):
    """Logs no line per request; closes a connection that is silent for a minute."""

    timeout = 60

    def log_message(self, format: str, *args: Any) -> None:
        """Log it for debugging."""
        _logger.debug(format, *args)
