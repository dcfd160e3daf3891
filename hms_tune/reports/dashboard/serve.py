"""optuna-dashboard on the fleet's own database."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna_dashboard
from optuna.storages import get_storage
from waitress import create_server
from waitress.channel import HTTPChannel

from hms_tune.database.connect import Storage
from hms_tune.errors import UsageError
from hms_tune.reports.dashboard.access import Application, Gatekeeper, is_loopback
from hms_tune.reports.dashboard.files import DashboardFiles
from hms_tune.reports.dashboard.prefix import Prefixed
from hms_tune.reports.dashboard.read_only_page import ReadOnlyPage
from hms_tune.reports.dashboard.trial_notes import TrialNotes

THREADS = 8
"""Requests that are answered at once."""

MOST_CONNECTIONS = 64
"""Of a further one, the connection that has been waiting longest is closed: it fits a limit of 128 files."""

REQUEST_S = 20
"""How long a request may take to arrive whole, s, and a connection may be idle."""

LEAST_PASSWORD = 12
"""Characters: at ten tries a minute, no list of usual passwords is gone through."""

_OURS = 8  # what the server listens on, and wakes itself with


def dashboard_app(
    storage: Storage,
    artifacts: Path,
    *,
    password: str | None = None,
    writable: bool = False,
    prefix: str | None = None,
) -> Application:
    """The dashboard as a WSGI application, with the artifacts under ``artifacts``.

    Parameters
    ----------
    storage : opened with :func:`~hms_tune.database.read_only.open_read_only`, unless it is to be writable
    password : asked of everyone; None: of nobody
    writable : whether notes, artifacts, and studies may be changed and deleted
    prefix : path below which it is served; None: the root of its host

    Raises
    ------
    UsageError
        If it cannot be served below that path.
    """
    store = DashboardFiles(artifacts)
    # Ended trials are read once, not again with each poll of an open page: of 1,000 trials that is most of
    # what a page costs the server.
    cached = get_storage(storage.optuna)
    application: Application = TrialNotes(optuna_dashboard.wsgi(cached, artifact_store=store), storage)
    if not writable:
        application = ReadOnlyPage(application)
    gate = Gatekeeper(application, password=password, writable=writable)
    return gate if prefix is None else Prefixed(gate, prefix)


def serve_dashboard(
    application: Application,
    *,
    host: str = "127.0.0.1",
    port: int = 8080,
    prefix: str | None = None,
    started: Callable[[str], None] = lambda address: None,
) -> None:
    """Serve the dashboard until interrupted; a slow answer holds up no other.

    Parameters
    ----------
    port : 0 takes a free one
    prefix : of the application
    started : told the dashboard's address once it can be opened

    Raises
    ------
    UsageError
        If the port is taken, or the address is not of this machine.
    """
    server = dashboard_server(application, host=host, port=port)
    shown = f"[{host}]" if ":" in host else host
    started(f"http://{shown}:{server.effective_port}{prefix or ''}/dashboard/")
    server.run()


def dashboard_server(application: Application, *, host: str, port: int) -> Any:
    """A server that listens; see :func:`serve_dashboard`."""
    try:
        server = create_server(
            application,
            host=host,
            port=port,
            threads=THREADS,
            connection_limit=MOST_CONNECTIONS + _OURS,
            channel_timeout=REQUEST_S,
            cleanup_interval=5,
            max_request_header_size=1 << 14,
            max_request_body_size=1 << 27,
            asyncore_use_poll=True,
            clear_untrusted_proxy_headers=False,  # the gatekeeper judges them
            ident=None,
        )
    except OSError as error:
        raise UsageError(
            f"{host}, port {port}, cannot be used: {error.strerror}",
            where="--port",
            hint="Choose another --port",
        ) from error
    server.channel_class = _Channel
    return server


class _Channel(HTTPChannel):  # type: ignore[misc]
    """A connection. Whoever is slow to ask, or to ask again, gives way to others."""

    def __init__(self, server: Any, *arguments: Any, **keywords: Any) -> None:
        super().__init__(server, *arguments, **keywords)
        waiting = [each for each in server.active_channels.values() if not each.requests and each is not self]
        if len(server.active_channels) > MOST_CONNECTIONS and waiting:
            min(waiting, key=lambda each: each.last_activity).handle_close()

    def handle_read(self) -> None:
        """Read a part of a request. Its time runs from its beginning, however often a part of it comes."""
        began: float = self.last_activity
        super().handle_read()
        if self.request is not None:
            self.last_activity: float = began


def check_exposure(host: str, password: str | None) -> None:
    """Refuse to serve others without a password, and a password that is quickly guessed.

    Raises
    ------
    UsageError
        If ``host`` is not a loopback address and there is no password, or it is short.
    """
    if password is not None and len(password) < LEAST_PASSWORD:
        raise UsageError(
            f"the password has fewer than {LEAST_PASSWORD} characters",
            where="HMS_TUNE_DASHBOARD_PASSWORD",
            hint="Choose a longer one: openssl rand -base64 18",
        )
    if password is None and not is_loopback(host):
        raise UsageError(
            f"{host} is open to others, and there is no password",
            where="--host",
            hint="Set HMS_TUNE_DASHBOARD_PASSWORD, or keep 127.0.0.1 and open a tunnel: "
            "ssh -L 8080:127.0.0.1:8080 THIS_MACHINE",
        )
