"""``hms-tune data``: download, check, synthesize, prepare and look at a competition folder."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from hms_tune.cli.console import progress_bar
from hms_tune.cli.data_show import folds, report, show
from hms_tune.cli.download import download
from hms_tune.cli.views import tables as render
from hms_tune.cli.views.data_check import report_view
from hms_tune.data.check.folder import check_folder
from hms_tune.data.store.prepare import prepare as prepare_store

app = typer.Typer(
    no_args_is_help=True, help="Download, check, prepare and look at a competition folder; or make one up."
)

app.command()(download)
for _command in (show, report, folds):
    app.command()(_command)

Root = Annotated[Path, typer.Argument(metavar="ROOT", help="Competition folder: train.csv, train_eegs/, …")]
Jobs = Annotated[
    int | None, typer.Option("--jobs", min=1, help="Files handled at once; one for each core by default.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command()
def check(
    root: Root,
    as_json: Json = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="Read tables and file footers alone, decode no signal.")
    ] = False,
    jobs: Jobs = None,
) -> None:
    """Say what ROOT holds, and list its every defect. Exit code 1 when there is an error."""
    with progress_bar("checking", "files") as progress:
        found = check_folder(root, quick=quick, jobs=jobs, progress=progress)
    if as_json:
        typer.echo(render.as_json(found.as_record()))
    else:
        render.out().print(report_view(found), soft_wrap=True)
    if found.errors:
        raise typer.Exit(1)


@app.command()
def synth(
    root: Root,
    patients: Annotated[int, typer.Option("--patients", min=2, help="Patients in the train split.")] = 60,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Same seed, same folder.")] = 0,
    signal: Annotated[
        float,
        typer.Option(
            "--signal", min=0.0, help="Strength of the patterns; at 0 nothing tells the classes apart."
        ),
    ] = 1.0,
    full: Annotated[
        bool,
        typer.Option(
            "--full", help="Up to 270 EEGs of a patient, up to 57 minutes long, as in the real one."
        ),
    ] = False,
    jobs: Jobs = None,
) -> None:
    """Write a synthetic competition into ROOT, with six classes that differ in their signal."""
    from hms_tune.data.synthetic import FULL_SIZE, synthesize

    size = FULL_SIZE if full else {}
    with progress_bar("synthesizing", "files") as progress:
        competition = synthesize(
            root, patients=patients, seed=seed, signal=signal, jobs=jobs, progress=progress, **size
        )
    typer.echo(str(competition.root))


@app.command()
def prepare(
    root: Root,
    store: Annotated[
        Path | None, typer.Option("--store", help="Where the store goes; ROOT/store by default.")
    ] = None,
    jobs: Jobs = None,
    as_json: Json = False,
) -> None:
    """Write the memory-mapped store that training reads. Safe to interrupt and to repeat."""
    from hms_tune.cli.console import log_to

    console = Console(stderr=True)
    log_to(console)
    with progress_bar("preparing", "files", console) as progress:
        prepared = prepare_store(root, store=store, jobs=jobs, progress=progress)
    manifest = prepared.manifest
    if as_json:
        typer.echo(json.dumps({"path": str(prepared.path)} | asdict(manifest), indent=2))
        return
    recordings, spectrograms = sum(manifest.recordings.values()), sum(manifest.spectrograms.values())
    size = (prepared.eeg.nbytes + prepared.spectrogram.nbytes) / 2**20
    typer.echo(f"{prepared.path}: {recordings} EEGs, {spectrograms} spectrograms, {size:,.0f} MiB")
