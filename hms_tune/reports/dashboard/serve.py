"""optuna-dashboard on the fleet's own database."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna_dashboard

from hms_tune.database.connect import Storage
from hms_tune.errors import UsageError
from hms_tune.reports.dashboard.access import Application, Gate, Gatekeeper, is_loopback
from hms_tune.reports.dashboard.checked import Checked
from hms_tune.reports.dashboard.files import DashboardFiles
from hms_tune.reports.dashboard.page_trials import PageTrials
from hms_tune.reports.dashboard.prefix import Prefixed
from hms_tune.reports.dashboard.read_only_page import ReadOnlyPage
from hms_tune.reports.dashboard.server import dashboard_server
from hms_tune.reports.dashboard.trial_notes import TrialNotes

LEAST_PASSWORD = 12
"""Characters: at ten tries a minute, no list of usual passwords is gone through."""


def dashboard_app(
    storage: Storage,
    artifacts: Path,
    *,
    password: str | None = None,
    writable: bool = False,
    prefix: str | None = None,
    proxy: int | None = None,
) -> Gate:
    """The dashboard as a WSGI application, with the artifacts under ``artifacts``.

    Parameters
    ----------
    storage : opened with :func:`~hms_tune.database.read_only.open_read_only`, unless it is to be writable
    password : asked of everyone; None: of nobody
    writable : whether notes, artifacts, and studies may be changed and deleted
    prefix : path below which it is served; None: the root of its host
    proxy : user id of a reverse proxy on this machine; None: there is none

    Raises
    ------
    UsageError
        If it cannot be served below that path.
    """
    store = DashboardFiles(artifacts)
    trials = PageTrials(storage)
    dashboard: Any = optuna_dashboard.wsgi(trials, artifact_store=store)
    dashboard.catchall = False  # what it does not find is no fault, and is not to be logged as one
    application: Application = TrialNotes(dashboard, storage, trials)
    if not writable:
        application = ReadOnlyPage(application)
    gate = Gatekeeper(Checked(application), password=password, writable=writable, proxy=proxy)
    return gate if prefix is None else Prefixed(gate, prefix)


def serve_dashboard(
    application: Gate,
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
    # An answer on thousands of trials is made of millions of objects; the garbage collector's default would
    # look through all that are alive again and again meanwhile.
    gc.set_threshold(100_000)
    server = dashboard_server(application, host=host, port=port)
    shown = f"[{host}]" if ":" in host else host
    started(f"http://{shown}:{server.effective_port}{prefix or ''}/dashboard/")
    server.run()


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
