"""``hms-tune data show``, ``report``, ``folds`` and ``label``: look at a competition folder, and label it."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from hms_tune.cli.console import progress_bar
from hms_tune.cli.options import DeviceOption, JsonOption, RootArgument
from hms_tune.cli.views import tables as render
from hms_tune.config.ranges import Choices, FloatRange, Searched, resolve
from hms_tune.config.study_file import STUDY_NAME, StudyFile, load_study_file
from hms_tune.config.trial import DataConfig
from hms_tune.data.labels import HIGH_VOTES
from hms_tune.errors import UsageError
from hms_tune.machine.stop_signals import ended_as_by_ctrl_c

if TYPE_CHECKING:
    from hms_tune.data.fold_report import FoldReport


def show(
    root: RootArgument,
    eeg_id: Annotated[int, typer.Argument(metavar="EEG_ID", help="A recording of either half.")],
    offset: Annotated[
        float | None,
        typer.Option("--offset", help="Start of the window, s; the middle labelled window by default."),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Write a picture (PNG) here.")] = None,
    html: Annotated[Path | None, typer.Option("--html", help="Write a page here.")] = None,
) -> None:
    """Draw a window as an electroencephalographer reads it: montage, spectrograms, votes."""
    from hms_tune.data.store.store import competition_of
    from hms_tune.reports.window_page import show as draw

    if out is None and html is None:
        hint = "Name a picture with --out x.png, or a page with --html x.html."
        raise UsageError("nothing to write", hint=hint)
    for written in draw(competition_of(root), eeg_id, offset=offset, out=out, html=html):
        typer.echo(str(written))


def report(
    root: RootArgument,
    out: Annotated[Path, typer.Option("--out", help="The page to write (HTML, needs nothing beside it).")],
    quick: Annotated[
        bool, typer.Option("--quick", help="Do not decode every signal; leaves out NaN and odd channels.")
    ] = False,
    jobs: Annotated[int | None, typer.Option("--jobs", min=1, help="Files handled at once.")] = None,
) -> None:
    """Write one page on ROOT: distributions, examples of each class, quality, where to look first."""
    from hms_tune.data.store.store import competition_of
    from hms_tune.reports.folder_page import write_report

    with progress_bar("looking through", "files") as progress:
        write_report(competition_of(root), out, quick=quick, jobs=jobs, progress=progress)
    typer.echo(str(out))


def folds(
    root: RootArgument,
    study: Annotated[
        str | None,
        typer.Option("--study", help="Split as this study does; five folds and a tenth held out by default."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Say how alike the folds are: rows, patients, classes and votes of each."""
    from hms_tune.data.files.competition import Competition
    from hms_tune.data.fold_report import fold_report
    from hms_tune.data.folds import assign_folds
    from hms_tune.data.labels import make_labels
    from hms_tune.data.store.store import competition_of

    config = DataConfig() if study is None else _data_config(load_study_file(study))
    train = Competition.open(competition_of(root), splits=("train",)).table("train")
    labels = make_labels(train, rows=config.rows, min_votes=config.min_votes)
    report = fold_report(labels, assign_folds(labels, config))
    if as_json:
        typer.echo(render.as_json(asdict(report)))
        return
    console = render.out()
    console.print(_fold_table(report, config.fold_repeats))
    console.print("Shares are mean vote shares. No patient is on both sides of a split.", style="dim")


def label(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="Folder that export-best wrote.")],
    root: Annotated[Path, typer.Argument(metavar="ROOT", help="The competition folder it was trained on.")],
    name: Annotated[
        str | None, typer.Option("--name", help="What a study file names them by; else the bundle's study.")
    ] = None,
    most_votes: Annotated[
        int, typer.Option("--most-votes", min=1, help="Rows of more votes keep theirs.")
    ] = HIGH_VOTES - 1,
    device: DeviceOption = "auto",
) -> None:
    """Write soft labels for rows of few votes, by the networks that never saw their patients.

    They lie in ROOT/soft_labels/NAME.parquet, or in HMS_TUNE_HOME where ROOT is not to be written to; a study
    file names them by data: {soft_labels: NAME}.
    """
    from hms_tune.data.store.prepare import prepare
    from hms_tune.export.teacher.label import label as label_rows

    if name is not None and not STUDY_NAME.fullmatch(name):
        raise UsageError(f"{json.dumps(name)} is no name", hint="Use lower-case letters, digits and hyphens")
    with progress_bar("preparing", "files") as preparing:
        store = prepare(root, progress=preparing)
    with ended_as_by_ctrl_c(), progress_bar("labelling", "networks") as progress:
        done = label_rows(bundle, store, name=name, most_votes=most_votes, device=device, progress=progress)
    typer.echo(f"{done.path}: {done.rows:,} of {done.rows_in_all:,} rows, of {done.patients:,} patients")


def _data_config(study_file: StudyFile) -> DataConfig:
    """How a study splits; where it searches the number of folds, the most."""

    def most(name: str, node: Searched) -> Any:
        if isinstance(node, Choices):
            return max((branch.label for branch in node.branches), key=lambda label: float(label or 0))
        return node.high if isinstance(node, FloatRange) else int(node.high)

    return DataConfig.model_validate(resolve(study_file.space.entries["data"], most, "data"))


def _fold_table(report: FoldReport, repeats: int) -> Table:
    names = ("rows", "EEGs", "patients", "≥10 votes", *report.vote_share_spread)
    table = render.plain_table("fold", *names, numbers=names)
    for fold in [*report.folds, *([report.held_out] if report.held_out else [])]:
        name = "held out" if fold.fold is None else f"{fold.fold}"
        if repeats > 1 and fold.repeat is not None:
            name = f"{fold.repeat}.{name}"
        counts = (fold.rows, fold.eegs, fold.patients, fold.high_vote_rows)
        shares = (f"{share:.1%}" for share in fold.vote_shares.values())
        table.add_row(name, *(f"{count:,}" for count in counts), *shares)
    spread = (f"±{share / 2:.1%}" for share in report.vote_share_spread.values())
    table.add_row("spread", f"×{report.row_ratio:.2f}", "", "", "", *spread)
    return table
