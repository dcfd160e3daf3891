"""``hms-tune worker``."""

from __future__ import annotations

import os
from typing import Annotated, Literal

import typer

from hms_tune.cli.console import log_to, progress_bar
from hms_tune.cli.options import DataOption, StorageOption, StudyArgument, artifacts_location, data_root
from hms_tune.config.acceleration import parse_acceleration
from hms_tune.config.settings import Settings
from hms_tune.config.study_file import load_study_file
from hms_tune.errors import UsageError


def worker(
    study: StudyArgument,
    data: DataOption = None,
    storage: StorageOption = None,
    device: Annotated[
        str, typer.Option("--device", help="auto (every GPU, else the CPU), cpu, or cuda:0,cuda:1.")
    ] = "auto",
    slots_per_device: Annotated[
        str,
        typer.Option(
            "--slots-per-device",
            metavar="K|auto",
            help="Trials at once on each device; auto measures how many pay.",
        ),
    ] = "1",
    acceleration: Annotated[
        str,
        typer.Option(
            "--acceleration",
            envvar="HMS_TUNE_ACCELERATION",
            help="auto (whatever measures fastest on a GPU), plain, graphs or compiled.",
        ),
    ] = "auto",
    ranks_per_trial: Annotated[
        int,
        typer.Option(
            "--ranks-per-trial", min=1, help="Devices that train one trial together (docs/parallel.md)."
        ),
    ] = 1,
    *,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="A line for every epoch where the log is no terminal.")
    ] = False,
    max_trials: Annotated[
        int | None, typer.Option("--max-trials", min=1, help="Stop after this many trials of this worker.")
    ] = None,
) -> None:
    """Run a study's trials until its budget is spent or this worker is stopped.

    Any number of workers may run one study. At SIGTERM or Ctrl-C trials are requeued and continue
    elsewhere; a second one ends at once.

    Exit status: 0 if the study is over (its budget is spent, or a person stopped it); 75 if this worker was
    stopped or has done its part, and there is more to do: start one again. 1 or 2 if there is something to
    mend, which the last line names.
    """
    settings = Settings.from_environment()
    study_file = load_study_file(study, settings)
    root = data_root(data, study_file, settings)
    typer.echo(f"{study_file.study}: a worker starts; it loads its libraries first", err=True)

    from hms_tune.tracking.console import ConsoleObserver
    from hms_tune.tracking.stderr import error_console
    from hms_tune.worker.options import WorkerOptions
    from hms_tune.worker.worker import Worker

    console = error_console()
    log_to(console)
    options = WorkerOptions(
        study_file=study_file,
        storage=storage or settings.storage,
        home=settings.home,
        data_root=root,
        artifacts=artifacts_location(settings),
        device=device,
        slots_per_device=parse_slots(slots_per_device),
        ranks_per_trial=ranks_per_trial,
        max_trials=max_trials,
        acceleration=parse_acceleration(acceleration),
        lease_s=settings.lease_seconds,
        checkpoint_s=settings.checkpoint_seconds,
    )
    observer = ConsoleObserver(console, every_epoch=verbose)
    has_more = Worker(
        options,
        observer,
        progress=lambda: progress_bar("preparing", "files", console),
        show_study=observer.show_study,
    ).run()
    console.print(f"{study_file.study}: " + ("there is more to do" if has_more else "the study is over"))
    if has_more:
        raise typer.Exit(os.EX_TEMPFAIL)


def parse_slots(text: str) -> int | Literal["auto"]:
    """Raises UsageError for what is neither a number of slots nor ``auto``."""
    if text == "auto":
        return "auto"
    if not text.isdecimal() or int(text) < 1:
        raise UsageError(
            f'"{text}" is no number of slots', where="--slots-per-device", hint="Give 1, 2, … or auto"
        )
    return int(text)
