"""``hms-tune doctor``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hms_tune.cli.options import JsonOption, StorageOption
from hms_tune.cli.views import tables as render
from hms_tune.config.settings import Settings


def doctor(
    storage: StorageOption = None,
    data: Annotated[
        Path | None, typer.Option("--data", metavar="ROOT", help="Competition folder; else HMS_TUNE_DATA.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Say what is installed, reachable and writable, with the mend for each. Exit code 1 at a failure."""
    from hms_tune.cli.doctor_checks import examine

    checks = list(examine(Settings.from_environment(), storage=storage, data=data))
    if as_json:
        typer.echo(render.as_json(checks))
    else:
        render.out().print(render.check_table(checks))
    if any(check.state == "fail" for check in checks):
        raise typer.Exit(1)
