"""``hms-tune data``: download or synthesize a competition folder, check it, prepare it, look at it."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from hms_tune.cli.console import line_to, log_to, progress_bar
from hms_tune.cli.data_show import folds, label, report, show
from hms_tune.cli.options import JobsOption, JsonOption, RootArgument
from hms_tune.cli.views import tables as render
from hms_tune.errors import DownloadError
from hms_tune.machine.byte_count import readable
from hms_tune.machine.progress import ProgressLines
from hms_tune.machine.terminal import Terminal

if TYPE_CHECKING:
    from hms_tune.data.download.competition import Watch

app = typer.Typer(
    no_args_is_help=True, help="Download or synthesize a competition folder; check, prepare, and look at it."
)


def download(
    root: Annotated[Path, typer.Argument(metavar="ROOT", help="Folder to make.")],
    from_zip: Annotated[
        Path | None,
        typer.Option("--from-zip", metavar="FILE", help="Unpack this archive instead of asking Kaggle."),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace a competition folder once the new one is complete.")
    ] = False,
) -> None:
    """Fetch the competition from Kaggle into ROOT. Safe to interrupt: the same command goes on.

    Needs the kaggle extra, credentials, and that you accepted the competition's rules on its page.
    """
    from hms_tune.data.download.competition import download as download_competition

    try:
        with _Bars() as watch:
            competition = download_competition(root, from_zip=from_zip, force=force, watch=watch)
    except KeyboardInterrupt:
        hint = "Run the same command again; it goes on from there"
        raise DownloadError("the download was interrupted", where=root, hint=hint) from None
    typer.echo(str(competition.root))
    typer.echo(f"next: hms-tune data check {root}", err=True)


class _Bars:
    """A bar for the archive's bytes, then one for its files, on stderr; lines where that is no terminal."""

    def __init__(self) -> None:
        self._console = Terminal(stderr=True)
        self._bar: Progress | None = None
        self._lines: ProgressLines | None = None
        self._what = ""

    def __enter__(self) -> Watch:
        from hms_tune.data.download.competition import Watch

        return Watch(self._fetching, self._unpacking)

    def __exit__(self, *_: object) -> None:
        self._stop()

    def _fetching(self, done: int, total: int) -> None:
        self._show("downloading", (DownloadColumn(), TransferSpeedColumn()), done, total)

    def _unpacking(self, done: int, total: int) -> None:
        self._show("unpacking", (MofNCompleteColumn(), TextColumn("files")), done, total)

    def _show(self, what: str, columns: tuple[ProgressColumn, ...], done: int, total: int) -> None:
        if not self._console.is_terminal:
            if self._lines is None or what != self._what:
                amount, of = (readable, "") if what == "downloading" else ("{:,}".format, "files")
                self._lines, self._what = ProgressLines(what, of, line_to(self._console), amount=amount), what
            self._lines.update(done, total)
            return
        if self._bar is None or what != self._what:
            self._stop()
            parts = (TextColumn(what), BarColumn(), *columns, TimeRemainingColumn())
            self._bar, self._what = Progress(*parts, console=self._console, transient=True), what
            # Begins at what an earlier run fetched, which would make this one's speed too high.
            self._bar.add_task(what, total=total, completed=done)
            self._bar.start()
        self._bar.update(self._bar.task_ids[0], completed=done)

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()


def check(
    root: RootArgument,
    as_json: JsonOption = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="Read tables and file footers alone, decode no signal.")
    ] = False,
    jobs: JobsOption = None,
) -> None:
    """Say what ROOT holds, and list its every defect. Exit code 1 when there is an error."""
    from hms_tune.cli.views.data_check import report_view
    from hms_tune.data.check.folder import check_folder
    from hms_tune.data.store.store import competition_of

    with progress_bar("checking", "files") as progress:
        found = check_folder(competition_of(root), quick=quick, jobs=jobs, progress=progress)
    if as_json:
        typer.echo(render.as_json(found.as_record()))
    else:
        render.out().print(report_view(found), soft_wrap=True)
    if found.errors:
        raise typer.Exit(1)


def synth(
    root: RootArgument,
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
    jobs: JobsOption = None,
) -> None:
    """Write a synthetic competition into ROOT, with six classes that differ in their signal."""
    from hms_tune.data.synthetic import FULL_SIZE, Extent, synthesize

    with progress_bar("synthesizing", "files") as progress:
        competition = synthesize(
            root,
            patients=patients,
            seed=seed,
            signal=signal,
            extent=FULL_SIZE if full else Extent(),
            jobs=jobs,
            progress=progress,
        )
    typer.echo(str(competition.root))


def prepare(
    root: RootArgument,
    store: Annotated[
        Path | None,
        typer.Option(
            "--store",
            metavar="DIR",
            help="Where the store goes, ROOT/store by default. Other commands take DIR for ROOT, too.",
        ),
    ] = None,
    jobs: JobsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write the memory-mapped store that training reads. Safe to interrupt and to repeat."""
    from hms_tune.data.store.prepare import prepare as prepare_store

    console = Terminal(stderr=True)
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


for _command in (download, synth, check, prepare, folds, show, report, label):
    app.command()(_command)
