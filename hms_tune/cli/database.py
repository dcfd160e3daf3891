"""``hms-tune database``: the database's address for other programs, and the embedded server kept up."""

from __future__ import annotations

import signal
from contextlib import suppress

import typer

from hms_tune.cli.options import StorageOption
from hms_tune.config.settings import Settings
from hms_tune.database.embedded.server import keep_up, stops_with_us
from hms_tune.database.other_programs import address_for_others
from hms_tune.errors import UsageError

app = typer.Typer(
    no_args_is_help=True, help="The database's address for other programs; this machine's own server."
)


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
def serve() -> None:
    """Keep the embedded server of HMS_TUNE_HOME up, for notebooks and other programs, until Ctrl-C."""
    settings = Settings.from_environment()
    if settings.storage is not None:
        raise UsageError(
            "HMS_TUNE_STORAGE names a server, which runs without hms-tune",
            hint="Unset it to keep up the embedded server of HMS_TUNE_HOME",
        )
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with suppress(KeyboardInterrupt):
        typer.echo(address_for_others(None, home=settings.home))
        keep_up(settings.home / "postgres")
