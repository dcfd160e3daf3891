"""``hms-tune dashboard``."""

from __future__ import annotations

import logging
import signal
import warnings
from contextlib import suppress
from typing import Annotated

import typer

from hms_tune.cli.options import StorageOption, artifacts_folder, opened, refuse_password
from hms_tune.config.settings import Settings


def dashboard(
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Port; 0 takes a free one.")] = 8080,
    host: Annotated[
        str,
        typer.Option("--host", help="Address; others than this machine's own take a password."),
    ] = "127.0.0.1",
    password: Annotated[str | None, typer.Option("--password", hidden=True)] = None,
    writable: Annotated[
        bool, typer.Option("--writable", help="Let notes, artifacts and studies be changed and deleted.")
    ] = False,
    prefix: Annotated[
        str | None,
        typer.Option("--prefix", help="Path below which a reverse proxy serves it, such as /hms-tune."),
    ] = None,
    proxy: Annotated[
        str | None,
        typer.Option(
            "--proxy",
            metavar="USER",
            help="As whom a reverse proxy runs on this machine, such as www-data: it names its visitors.",
        ),
    ] = None,
    storage: StorageOption = None,
) -> None:
    """Serve optuna-dashboard on the studies, until Ctrl-C. It is read-only and for this machine.

    HMS_TUNE_DASHBOARD_PASSWORD is asked of everyone, with any user name.
    """
    from hms_tune.reports.dashboard.peer import user_id
    from hms_tune.reports.dashboard.serve import check_exposure, dashboard_app, serve_dashboard

    if password is not None:
        refuse_password("--password", "Set HMS_TUNE_DASHBOARD_PASSWORD")
    settings = Settings.from_environment()
    asked = settings.dashboard_password
    check_exposure(host, asked)
    trusted = None if proxy is None else user_id(proxy)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    # Of a conditional parameter that few trials have; nobody can fix that, and each page would say it.
    warnings.filterwarnings("ignore", message="Some regimes for parameter")
    with opened(storage, to="change" if writable else "serve") as database, suppress(KeyboardInterrupt):
        artifacts = artifacts_folder(settings)
        serve_dashboard(
            dashboard_app(
                database, artifacts, password=asked, writable=writable, prefix=prefix, proxy=trusted
            ),
            host=host,
            port=port,
            prefix=prefix,
            started=lambda address: typer.echo(f"Dashboard: {address}"),
        )
