"""``hms-tune status``."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Annotated

import typer
from rich.live import Live

from hms_tune.cli.options import JsonOption, StorageOption, StudyArgument, opened, study_name
from hms_tune.cli.views import tables as render
from hms_tune.cli.views.status import status_view


def status(
    study: StudyArgument,
    storage: StorageOption = None,
    watch: Annotated[bool, typer.Option("--watch", help="Show it again and again, until Ctrl-C.")] = False,
    every: Annotated[float, typer.Option("--every", min=0.5, help="Seconds between two looks.")] = 2.0,
    as_json: JsonOption = False,
) -> None:
    """Show how a study stands: trials by state with reasons, the best, workers, speed, time left."""
    from hms_tune.studies import status as studies

    study = study_name(study)
    with opened(storage, to="read") as database, suppress(KeyboardInterrupt):
        first = studies.status(database, study)
        if as_json:
            typer.echo(render.as_json(first))
            while watch:
                time.sleep(every)
                typer.echo(render.as_json(studies.status(database, study)))
            return
        console = render.out()
        if not watch or not console.is_terminal:
            console.print(status_view(first))
            while watch:
                time.sleep(every)
                console.print("", status_view(studies.status(database, study)), sep="\n")
            return
        with Live(status_view(first), console=console, auto_refresh=False, screen=True) as live:
            while True:
                time.sleep(every)
                live.update(status_view(studies.status(database, study)), refresh=True)
