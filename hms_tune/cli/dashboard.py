"""``hms-tune dashboard``."""

from __future__ import annotations

import signal
from contextlib import suppress
from typing import Annotated

import typer

from hms_tune.cli.options import StorageOption, artifacts_folder, opened
from hms_tune.config.settings import Settings


def dashboard(
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Port; 0 takes a free one.")] = 8080,
    host: Annotated[
        str, typer.Option("--host", help="Address; only this machine's own is allowed.")
    ] = "127.0.0.1",
    storage: StorageOption = None,
) -> None:
    """Serve optuna-dashboard on the studies, until Ctrl-C."""
    from hms_tune.service.dashboard import check_host, serve_dashboard

    check_host(host)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with opened(storage) as database, suppress(KeyboardInterrupt):
        serve_dashboard(
            database,
            artifacts_folder(Settings.from_environment()),
            host=host,
            port=port,
            started=lambda address: typer.echo(f"Dashboard: {address}"),
        )
