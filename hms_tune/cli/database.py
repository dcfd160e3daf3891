"""``hms-tune database``: its address for other programs; the embedded server kept up, also for a fleet."""

from __future__ import annotations

import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from hms_tune.cli.options import StorageOption
from hms_tune.config.settings import Settings
from hms_tune.database.embedded.server import keep_up, runs, stops_with_us
from hms_tune.database.other_programs import address_for_others
from hms_tune.errors import StorageError, UsageError

app = typer.Typer(
    no_args_is_help=True, help="The database's address for other programs; this machine's own server."
)

_LOOK_EVERY_S = 5.0


@app.command()
def url(storage: StorageOption = None) -> None:
    """Print the address that Optuna's own tools, pandas and notebooks open.

    It has the password that HMS_TUNE_STORAGE has; the embedded server's has a file of yours instead.
    """
    settings = Settings.from_environment()
    address = storage or settings.storage
    typer.echo(address_for_others(address, home=settings.home))
    if address is None and stops_with_us(settings.home / "postgres"):
        typer.echo("It answers while hms-tune is at work; hms-tune database serve keeps it up.", err=True)


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
    """Keep the embedded server of HMS_TUNE_HOME up, for other programs, until Ctrl-C or SIGTERM.

    With --host it serves a fleet, too, for a user whose password was made at the first start; there
    HMS_TUNE_STORAGE is for the fleet's other processes and is not looked at.
    """
    settings = Settings.from_environment()
    if (host is None) != (address_file is None):
        raise UsageError("--host and --address-file go together", hint="Give both to serve a fleet")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    folder = settings.home / "postgres"
    with suppress(KeyboardInterrupt):
        if host is not None and address_file is not None:
            _serve_fleet(folder, host, port, address_file)
        if settings.storage is not None:
            raise UsageError(
                "HMS_TUNE_STORAGE names a server, which runs without hms-tune",
                hint="Unset it to keep up the embedded server of HMS_TUNE_HOME",
            )
        typer.echo(address_for_others(None, home=settings.home))
        keep_up(folder)


def _serve_fleet(folder: Path, host: str, port: int, address_file: Path) -> NoReturn:
    """Serve until the server has ended; its address goes into a file."""
    from hms_tune.database.embedded.cluster import write_private
    from hms_tune.database.embedded.fleet_server import serve_fleet

    write_private(address_file.absolute(), f"{serve_fleet(folder, host, port)}\n")
    typer.echo(f"serving on {host}:{port}; the address is in {address_file}")
    while runs(folder):
        time.sleep(_LOOK_EVERY_S)
    raise StorageError("the embedded PostgreSQL has ended", where=folder, hint="Read its log there")
