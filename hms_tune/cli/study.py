"""``hms-tune study``: look at studies and tell them what to do."""

from __future__ import annotations

import json
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hms_tune.cli.options import (
    JsonOption,
    StorageOption,
    StudyArgument,
    StudyCommand,
    artifacts_location,
    key_and_value,
    opened,
    study_name,
)
from hms_tune.cli.views import tables as render
from hms_tune.config.settings import Settings
from hms_tune.config.study_file import STUDY_NAME, load_study_file
from hms_tune.errors import EmptyDatabaseError, UsageError

if TYPE_CHECKING:
    from hms_tune.database.queries.studies import RequestedState
    from hms_tune.worker.checkpoint_store.archive import Archived

app = typer.Typer(no_args_is_help=True, help="Look at studies, and tell them what to do.")


@app.command("check", cls=StudyCommand)
def check_command(
    study: StudyArgument,
    data: Annotated[
        Path | None,
        typer.Option(
            "--data",
            metavar="ROOT",
            help="Competition folder: check its folds; once it is prepared, plan a trial's memory on it.",
        ),
    ] = None,
    device: Annotated[
        str, typer.Option("--device", help="Where trials would run: auto, cpu or cuda:0.")
    ] = "auto",
    storage: StorageOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check a study file and show what it searches; of its parent, if it names one, what carries over."""

    from hms_tune.cli.study_check import check

    check(study, as_json, data=data, device=device, storage=storage)


@app.command("list")
def list_command(storage: StorageOption = None, as_json: JsonOption = False) -> None:
    """List the studies in the storage, those of other programs too."""
    from hms_tune.studies.status import list_studies

    summaries = []
    with suppress(EmptyDatabaseError), opened(storage, to="read") as database:
        summaries = list_studies(database)
    if as_json:
        typer.echo(render.as_json(summaries))
    elif summaries:
        render.out().print(render.study_table(summaries))
    else:
        typer.echo("no studies yet")


@app.command(cls=StudyCommand)
def show(
    study: StudyArgument,
    trial: Annotated[
        int | None, typer.Option("--trial", min=0, help="All about the trial of this number.")
    ] = None,
    sort: Annotated[
        str,
        typer.Option(
            "--sort",
            metavar="COLUMN",
            help="trial, state, KL, time or a parameter; -COLUMN has the largest first.",
        ),
    ] = "trial",
    page: Annotated[
        int, typer.Option("--page", min=1, help="Which hundred to show; --csv and --json have all.")
    ] = 1,
    as_csv: Annotated[
        bool, typer.Option("--csv", help="Print every parameter of every trial as CSV.")
    ] = False,
    storage: StorageOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the trials of a study page by page, or show one of them."""
    if trial is not None:
        _show_trial(study_name(study), trial, storage, as_json)
        return
    from hms_tune.cli.views.trials import PAGE, sort_column, sorted_trials, trial_view, trials_csv
    from hms_tune.studies.status import attempt_list, attempts_shown, estimate_scale, parameter_names

    name = study_name(study)
    with opened(storage, to="read") as database:
        params = parameter_names(database, name)
        column = sort_column(sort, params)
        scale = estimate_scale(database, name)
        keys = attempt_list(database, scale, param=column)
        ordered = sorted_trials(keys, column, largest_first=sort.startswith("-"))
        ids = [key.optuna_trial_id for key in ordered]
        if as_json or as_csv:
            trials = attempts_shown(database, ids, scale)
            sys.stdout.writelines(render.as_json_lines(trials) if as_json else trials_csv(trials, params))
            return
        shown = list(attempts_shown(database, ids[(page - 1) * PAGE : page * PAGE], scale))
    console = render.out()
    console.print(trial_view(shown, width=console.width, page=page, of=len(ids)))


def _show_trial(name: str, number: int, storage: str | None, as_json: bool) -> None:
    from hms_tune.cli.views.trial import WIDTH, trial_view
    from hms_tune.studies.trial_record import ranking_of, trial_record

    with opened(storage, to="read") as database:
        trial = trial_record(database, name, number)
        if as_json:
            typer.echo(render.as_json(trial))
            return
        place = ranking_of(database, name, trial)
    console = render.out()
    width = console.width if console.is_terminal else WIDTH
    console.print(trial_view(trial, place, width=width))


@app.command(cls=StudyCommand)
def report(
    study: StudyArgument,
    out: Annotated[Path, typer.Option("--out", help="The page to write (HTML, needs nothing beside it).")],
    bundle: Annotated[
        Path | None,
        typer.Option(
            "--bundle", metavar="DIR", help="What export-best wrote; bundles/STUDY-TRIAL where there is one."
        ),
    ] = None,
    storage: StorageOption = None,
) -> None:
    """Write one page on a study: question, score, winner, course, cost, how to reproduce it."""
    from hms_tune.reports.page import write
    from hms_tune.reports.study_page import gather, report_page

    with opened(storage, to="read") as database:
        material = gather(database, study_name(study), bundle=bundle)
    write(out, report_page(material).encode())
    typer.echo(str(out))


@app.command(cls=StudyCommand)
def pause(study: StudyArgument, storage: StorageOption = None) -> None:
    """Hand running trials back and start no more, until resumed. Workers wait."""
    _set_state(study, storage, "paused")


@app.command(cls=StudyCommand)
def resume(study: StudyArgument, storage: StorageOption = None) -> None:
    """Let a paused or stopped study go on."""
    _set_state(study, storage, "running")


@app.command(cls=StudyCommand)
def stop(study: StudyArgument, storage: StorageOption = None) -> None:
    """Hand running trials back and let every worker end."""
    _set_state(study, storage, "stopped")


def _set_state(study: str, storage: str | None, state: RequestedState) -> None:
    from hms_tune.studies import control
    from hms_tune.studies.status import study_state

    study = study_name(study)
    with opened(storage) as database:
        control.set_state(database, study, state)
        current = study_state(database, study)
    typer.echo(f"{study}: {current}")


@app.command("stop-trial", cls=StudyCommand)
def stop_trial(
    study: StudyArgument,
    number: Annotated[int, typer.Argument(metavar="N", min=0, help="Number of the trial.")],
    storage: StorageOption = None,
) -> None:
    """End one trial for good, within an epoch. It counts as failed; the sampler learns nothing from it."""
    from hms_tune.studies import control

    study = study_name(study)
    with opened(storage) as database:
        state = control.stop_trial(database, study, number)
    typer.echo(f"{study}: trial {number} " + ("has ended" if state == "stopped" else "ends within an epoch"))


@app.command(cls=StudyCommand)
def drain(
    study: StudyArgument,
    worker: Annotated[
        str,
        typer.Option("--worker", metavar="ID|HOST", help="A worker's id, or a host: all its workers."),
    ],
    at_once: Annotated[
        bool, typer.Option("--now", help="Hand its trials back within an epoch; they continue elsewhere.")
    ] = False,
    storage: StorageOption = None,
) -> None:
    """Let a worker finish the trials it runs, and leave."""
    from hms_tune.studies import control

    study = study_name(study)
    with opened(storage) as database:
        told = control.drain(database, study, worker, at_once=at_once)
    how = "requeues its trials and leaves" if at_once else "finishes its trials and leaves"
    for each in told:
        typer.echo(f"{study}: worker {each.worker_id} on {each.host} {how}")


@app.command(cls=StudyCommand)
def notify(
    study: StudyArgument,
    test: Annotated[bool, typer.Option("--test", help="Send a message, to see that it arrives.")] = False,
) -> None:
    """Say who is told of what happens in a study, or send a test message."""
    from hms_tune.cli.notify import described, send_test

    study_file = load_study_file(study)
    typer.echo(send_test(study_file) if test else described(study_file))


@app.command(cls=StudyCommand)
def enqueue(
    study: StudyArgument,
    values: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE…", help="More values.", show_default=False)
    ] = None,
    params: Annotated[
        list[str] | None,
        typer.Option(
            "--params",
            metavar="JSON|KEY=VALUE",
            help="Values to try, such as '{\"model.dropout\": 0.1}' or model.dropout=0.1.",
        ),
    ] = None,
    storage: StorageOption = None,
) -> None:
    """Leave values for the next free slot to try. What is not given, the sampler draws."""
    from hms_tune.studies.enqueue import enqueue

    given: dict[str, str] = {}
    for text in [*(params or []), *(values or [])]:
        given |= parse_params(text)
    if not given:
        raise UsageError("nothing to try", where="--params", hint="For example --params model.dropout=0.1")
    study = study_name(study)
    with opened(storage) as database:
        taken, before = enqueue(database, study, given)
    place = "next" if before == 0 else f"after {before} that wait"
    typer.echo(f"{study}: {render.params_text(taken)} is tried {place}")


@app.command(cls=StudyCommand)
def confirm(
    study: StudyArgument,
    top: Annotated[int, typer.Option("--top", min=2, help="So many of the best trials.")] = 5,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="So many fresh seeds for each.")] = 3,
    storage: StorageOption = None,
) -> None:
    """Let the fleet train the leading trials again with fresh seeds and folds, to see which is best.

    Workers of the study take it up when its own search is over. A candidate that is worse than the leader
    over the same patients is dropped.
    """
    from hms_tune.cli.views.exported import say_left_out
    from hms_tune.worker.confirmation.request import request_confirmation

    study = study_name(study)
    with opened(storage) as database:
        asked = request_confirmation(database, study, top=top, seeds=seeds)
    say_left_out(study, asked.left_out)
    trials = ", ".join(map(str, asked.candidates))
    typer.echo(
        f"{study}: {asked.added} runs wait to confirm trials {trials}, as study {asked.study}; "
        f"workers of {study} take them"
    )


def parse_params(text: str) -> dict[str, str]:
    """Values to enqueue, from a JSON object or from ``KEY=VALUE``; each as a study file would have it.

    Raises
    ------
    UsageError
        If it is neither.
    """
    if text.lstrip().startswith("{"):
        try:
            given = json.loads(text)
        except ValueError as error:
            raise UsageError(
                f"this is no JSON: {error}",
                where="--params",
                hint="For example '{\"model.dropout\": 0.1}', in single quotes",
            ) from None
        return {key: value if isinstance(value, str) else json.dumps(value) for key, value in given.items()}
    return dict([key_and_value(text, option="--params")])


@app.command(cls=StudyCommand)
def delete(
    study: StudyArgument,
    yes: Annotated[bool, typer.Option("--yes", help="Do it: it cannot be undone.")] = False,
    storage: StorageOption = None,
) -> None:
    """Delete a study with its trials and checkpoints, and the one that confirms it."""
    from hms_tune.database.queries.confirmations import confirmation_progress
    from hms_tune.studies import control
    from hms_tune.worker.checkpoint_store.checkpoints import Artifacts
    from hms_tune.worker.checkpoint_store.predictions import KeptPredictions

    study = study_name(study)
    if not yes:
        raise UsageError(
            "deleting cannot be undone",
            where=f"study {study}",
            hint=f"Say so: hms-tune study delete {study} --yes",
        )
    settings = Settings.from_environment()
    with opened(storage) as database:
        with database.transaction() as connection:
            confirming = confirmation_progress(connection, study)
        names = [*([] if confirming is None else [confirming.study]), study]
        for name in names:
            control.delete_study(database, name)
    for name in names:
        # Whoever may write into the database may have given it a name that leads out of the folder.
        if STUDY_NAME.fullmatch(name):
            artifacts = Artifacts.at(artifacts_location(settings), settings.home / "scratch", name)
            artifacts.remove_all()
            KeptPredictions(artifacts.store, name).remove_all()
        typer.echo(f"{name}: deleted")


@app.command(cls=StudyCommand)
def save(
    study: StudyArgument,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The file to write.")],
    storage: StorageOption = None,
) -> None:
    """Write a study with its trials, records and checkpoints to a file.

    Workers may be at it: where the file is loaded, their trials go on from their last checkpoints.
    """
    from hms_tune.worker.checkpoint_store.archive import save_study
    from hms_tune.worker.checkpoint_store.open import open_store

    store = open_store(artifacts_location(Settings.from_environment()))
    with opened(storage, to="read") as database:
        saved = save_study(database, store, study_name(study), file)
    typer.echo(f"{file}: {_described(saved)}", err=not file.is_file())  # which may be stdout itself


@app.command()
def load(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What `hms-tune study save` wrote.")],
    storage: StorageOption = None,
) -> None:
    """Write the study of a file into a database that has none of its name; a worker goes on with it."""
    from hms_tune.worker.checkpoint_store.archive import load_study
    from hms_tune.worker.checkpoint_store.open import open_store

    store = open_store(artifacts_location(Settings.from_environment()))
    with opened(storage) as database:
        loaded = load_study(database, store, file)
    typer.echo(_described(loaded))


def _described(archived: Archived) -> str:
    return (
        f"study {archived.study}, {archived.trials} trials in {archived.attempts} attempts, "
        f"{archived.checkpoints} checkpoints"
    )
