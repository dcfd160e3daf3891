"""``hms-tune study``: look at studies and tell them what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hms_tune.cli import render
from hms_tune.cli.options import JsonOption, StorageOption, artifacts_location, opened, study_name
from hms_tune.config.settings import Settings
from hms_tune.errors import UsageError

app = typer.Typer(
    no_args_is_help=True, help="Check, list, show, pause, resume, stop, fill and delete studies."
)
Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of a study, or the path of its study file.")]


@app.command("check")
def check_command(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A study file's path, or its study's name.")],
    data: Annotated[
        Path | None,
        typer.Option(
            "--data", metavar="ROOT", help="A prepared competition folder: plan a trial's memory on it."
        ),
    ] = None,
    device: Annotated[
        str, typer.Option("--device", help="Where trials would run: auto, cpu or cuda:0.")
    ] = "auto",
    as_json: JsonOption = False,
) -> None:
    """Check a study file and show what it searches."""

    from hms_tune.cli.study_check import check

    check(file, as_json, data=data, device=device)


@app.command("list")
def list_command(storage: StorageOption = None, as_json: JsonOption = False) -> None:
    """List the studies in the storage."""
    from hms_tune.service.studies import list_studies

    with opened(storage) as database:
        summaries = list_studies(database)
    if as_json:
        typer.echo(render.as_json(summaries))
    elif summaries:
        render.out().print(render.study_table(summaries))
    else:
        typer.echo("no studies yet")


@app.command()
def show(
    name: Name,
    trial: Annotated[
        int | None, typer.Option("--trial", min=0, help="All about the trial of this number.")
    ] = None,
    storage: StorageOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the trials of a study, or show one of them."""
    from hms_tune.service.studies import show_trials

    with opened(storage) as database:
        trials = show_trials(database, study_name(name), number=trial)
    if as_json:
        typer.echo(render.as_json(trials if trial is None else trials[0]))
    elif trial is None:
        render.out().print(render.trial_table(trials))
    else:
        render.out().print(render.trial_view(trials[0]))


@app.command()
def pause(name: Name, storage: StorageOption = None) -> None:
    """Hand running trials back and start no more, until resumed. Workers wait."""
    _set_state(name, storage, "paused")


@app.command()
def resume(name: Name, storage: StorageOption = None) -> None:
    """Let a paused or stopped study go on."""
    _set_state(name, storage, "running")


@app.command()
def stop(name: Name, storage: StorageOption = None) -> None:
    """Hand running trials back and let every worker end."""
    _set_state(name, storage, "stopped")


def _set_state(name: str, storage: str | None, state: str) -> None:
    from hms_tune.service import studies

    study = study_name(name)
    with opened(storage) as database:
        match state:
            case "paused":
                studies.set_state(database, study, "paused")
            case "stopped":
                studies.set_state(database, study, "stopped")
            case _:
                studies.set_state(database, study, "running")
    typer.echo(f"{study}: {state}")


@app.command()
def enqueue(
    name: Name,
    values: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE…", help="More values.", show_default=False)
    ] = None,
    params: Annotated[
        list[str] | None,
        typer.Option("--params", metavar="KEY=VALUE", help="A parameter's value, such as model.dropout=0.1."),
    ] = None,
    storage: StorageOption = None,
) -> None:
    """Leave values for the next free slot to try. What is not given, the sampler draws."""
    from hms_tune.service import studies

    given: dict[str, str] = {}
    for text in [*(params or []), *(values or [])]:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise UsageError(
                f"{text!r} is not KEY=VALUE", where="--params", mend="For example model.dropout=0.1"
            )
        given[key.strip()] = value
    if not given:
        raise UsageError("nothing to try", where="--params", mend="For example --params model.dropout=0.1")
    with opened(storage) as database:
        number = studies.enqueue(database, study_name(name), given)
    typer.echo(f"trial {number} waits for a slot")


@app.command()
def delete(
    name: Name,
    yes: Annotated[bool, typer.Option("--yes", help="Do it: it cannot be undone.")] = False,
    storage: StorageOption = None,
) -> None:
    """Delete a study with its trials and checkpoints."""
    from hms_tune.service import studies
    from hms_tune.service.artifacts import Artifacts

    study = study_name(name)
    if not yes:
        raise UsageError(
            "deleting cannot be undone",
            where=f"study {study}",
            mend=f"Say so: hms-tune study delete {study} --yes",
        )
    settings = Settings.from_environment()
    artifacts = Artifacts.at(artifacts_location(settings), settings.home / "scratch", study)
    with opened(storage) as database:
        studies.delete_study(database, study)
    artifacts.remove_all()
    typer.echo(f"{study}: deleted")
