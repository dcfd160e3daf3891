"""``hms-tune export-best`` and ``hms-tune predict``."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from hms_tune.cli.console import log_to, progress_bar
from hms_tune.cli.options import JsonOption, StorageOption, data_root, opened, study_name
from hms_tune.cli.study_argument import StudyArgument
from hms_tune.config.settings import Settings
from hms_tune.config.study_file import STUDY_NAME
from hms_tune.errors import UsageError
from hms_tune.machine.stop_signals import ended_as_by_ctrl_c
from hms_tune.machine.terminal import Terminal

if TYPE_CHECKING:
    from hms_tune.export.export import Exported

DeviceOption = Annotated[str, typer.Option("--device", help="auto (a GPU, else the CPU), cpu or cuda:0.")]


def export_best(
    study: StudyArgument,
    trial: Annotated[
        int | None, typer.Option("--trial", min=0, help="Export this trial instead of the best.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="DIR",
            help="The bundle; by default bundles/STUDY-TRIAL, with a link bundles/STUDY to the newest.",
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            "--data", metavar="ROOT", help="Competition folder; else the study file's, else HMS_TUNE_DATA."
        ),
    ] = None,
    refit: Annotated[
        Literal["none", "full"],
        typer.Option("--refit", help="full: also train one network on all rows, held-out patients too."),
    ] = "none",
    device: DeviceOption = "auto",
    storage: StorageOption = None,
    as_json: JsonOption = False,
) -> None:
    """Retrain a study's best trial on its folds and write a bundle: weights, ONNX, scores, model card."""
    from hms_tune.data.store.prepare import prepare
    from hms_tune.export.export import check_vacant
    from hms_tune.export.place import bundle_path, point_to_newest
    from hms_tune.machine.device import resolve_device
    from hms_tune.studies.export_best import best_trial, export_watched
    from hms_tune.tracking.console import ConsoleObserver
    from hms_tune.tracking.observers import trackers

    study = study_name(study)
    if not STUDY_NAME.fullmatch(study):
        raise UsageError(
            f"{json.dumps(study)} is no study name", hint="hms-tune study list names those there are"
        )
    settings = Settings.from_environment()
    resolve_device(device)
    with opened(storage, to="read") as database:
        choice = best_trial(database, study, number=trial)
    root = data_root(data, choice.study_file, settings)
    target = out or bundle_path(study, choice.winner.number)
    check_vacant(target)
    console = Terminal(stderr=True)
    log_to(console)
    with progress_bar("preparing", "files", console) as progress:
        store = prepare(root, progress=progress)
    observers = [ConsoleObserver(console), *trackers(choice.study_file, settings.home)]
    exported = export_watched(
        choice,
        store,
        target,
        device=device,
        refit=refit,
        checkpoint_every_s=settings.checkpoint_seconds,
        observers=observers,
    )
    link = point_to_newest(exported.path, study) if out is None else None
    if as_json:
        paths = {"path": str(exported.path), "link": None if link is None else str(link)}
        report = exported.scores.as_json() | paths | {"full": exported.full}
        report["onnx"] = None if exported.onnx is None else asdict(exported.onnx)
        typer.echo(json.dumps(report, indent=2))
    else:
        typer.echo(describe(exported, link))


def predict(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="Folder that export-best wrote.")],
    root: Annotated[Path, typer.Argument(metavar="ROOT", help="Competition folder.")],
    split: Annotated[
        Literal["test", "train"], typer.Option("--split", help="Which half to predict.")
    ] = "test",
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="Where the rows go.")] = Path(
        "submission.csv"
    ),
    weights: Annotated[
        Literal["folds", "full"] | None,
        typer.Option("--weights", help="The folds' ensemble, or the network trained on all rows."),
    ] = None,
    device: DeviceOption = "auto",
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", min=1, help="Windows at once; the trial's by default.")
    ] = None,
) -> None:
    """Predict every EEG of one half of a competition folder and write a submission.

    Reads that half alone, prepared or not. Interrupted, it leaves nothing behind.
    """
    from hms_tune.data.store.store import competition_of
    from hms_tune.export.predict import predict as predict_folder

    with ended_as_by_ctrl_c(), progress_bar("predicting", "windows") as progress:
        written = predict_folder(
            bundle,
            competition_of(root),
            split=split,
            out=out,
            device=device,
            weights=weights,
            batch_size=batch_size,
            progress=progress,
        )
    typer.echo(str(written))


def describe(exported: Exported, link: Path | None) -> str:
    """The bundle, the link that leads to it, and its scores in a few lines."""
    scores = exported.scores
    lines = [
        str(exported.path),
        *([] if link is None else [f"{link} -> {exported.path.name}"]),
        f"KL {scores.kl:.4f} over {len(scores.fold_kl)} folds (prior {scores.prior_kl:.4f}"
        + (f", in the search {scores.search_kl:.4f})" if scores.search_kl is not None else ")"),
    ]
    if scores.kl_high_vote is not None:
        lines.append(
            f"KL {scores.kl_high_vote:.4f} on the {scores.high_vote_rows} rows with 10 or more votes"
        )
    if scores.held_out_kl is not None and scores.held_out_prior_kl is not None:
        lines.append(
            f"KL {scores.held_out_kl:.4f} on {scores.held_out_rows} rows of held-out patients "
            f"(prior {scores.held_out_prior_kl:.4f})"
        )
    return "\n".join(lines)
