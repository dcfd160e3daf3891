"""``hms-tune database``: the embedded server, kept up for this machine or served to a fleet."""

from __future__ import annotations

import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from hms_tune.config.settings import Settings
from hms_tune.errors import StorageError, UsageError

app = typer.Typer(no_args_is_help=True, help="This machine's own PostgreSQL.")

_LOOK_EVERY_S = 5.0


@app.callback()
def database() -> None:
    """This machine's own PostgreSQL."""


@app.command()
def serve(
    host: Annotated[
        str | None,
        typer.Option(
            "--host", metavar="NAME", help="Serve a fleet: the name by which its machines reach this one."
        ),
    ] = None,
    port: Annotated[int, typer.Option("--port", min=1024, max=65535, help="Port on that address.")] = 5432,
    address_file: Annotated[
        Path | None,
        typer.Option(
            "--address-file",
            metavar="FILE",
            help="Where the address with its password is written, for HMS_TUNE_STORAGE; yours alone to read.",
        ),
    ] = None,
) -> None:
    """Keep the embedded server of HMS_TUNE_HOME up until Ctrl-C or SIGTERM.

    With --host it listens on that address, too, for a user whose password was made at the first start.
    """
    from hms_tune.database.embedded import server
    from hms_tune.database.embedded.fleet_server import serve_fleet

    settings = Settings.from_environment()
    if (host is None) != (address_file is None):
        raise UsageError("--host and --address-file go together", hint="Give both to serve a fleet")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    folder = settings.home / "postgres"
    with suppress(KeyboardInterrupt):
        if host is None or address_file is None:
            server.start_embedded(folder)
            typer.echo(f"serving this machine from {folder}")
        else:
            address = serve_fleet(folder, host, port)
            _write(address_file, address)
            typer.echo(f"serving on {host}:{port}; the address is in {address_file}")
        while server.runs(folder):
            time.sleep(_LOOK_EVERY_S)
        raise StorageError("the embedded PostgreSQL has ended", where=folder, hint="Read its log there")


def _write(file: Path, address: str) -> None:
    from hms_tune.database.embedded.cluster import write_private

    write_private(file.absolute(), f"{address}\n")
