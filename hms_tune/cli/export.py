"""``hms-tune export-best``, ``hms-tune predict`` and ``hms-tune kaggle``."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, get_args

import typer

from hms_tune.cli.console import log_to, progress_bar
from hms_tune.cli.options import (
    JsonOption,
    StorageOption,
    StudyArgument,
    artifacts_location,
    data_root,
    opened,
    study_name,
)
from hms_tune.config.augmentation import TestTime
from hms_tune.config.settings import Settings
from hms_tune.config.study_file import STUDY_NAME
from hms_tune.errors import UsageError
from hms_tune.machine.stop_signals import ended_as_by_ctrl_c
from hms_tune.machine.terminal import Terminal

if TYPE_CHECKING:
    from hms_tune.database.connect import Storage
    from hms_tune.export.adjustment import Adjustment
    from hms_tune.export.blend_weights import Blending
    from hms_tune.export.export import Exported
    from hms_tune.studies.export_best import Choice

_BLENDED_FROM = 40
"""A blend is chosen from so many of the best trials; worse ones seldom help."""

DeviceOption = Annotated[str, typer.Option("--device", help="auto (a GPU, else the CPU), cpu or cuda:0.")]


def export_best(
    study: StudyArgument,
    *,
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
    blend: Annotated[
        int | None,
        typer.Option("--blend", min=2, help="Blend the trials whose blend is best, at most so many."),
    ] = None,
    confirm: Annotated[
        bool,
        typer.Option(
            "--confirm", help="First train the five leading trials again on this device, with three seeds."
        ),
    ] = False,
    device: DeviceOption = "auto",
    storage: StorageOption = None,
    as_json: JsonOption = False,
) -> None:
    """Retrain a study's best trial on its folds and write a bundle: weights, ONNX, scores, model card.

    The best is the winner of the confirmation (hms-tune study confirm), where there was one. With --blend,
    several: chosen by the predictions that the workers kept, each exported beside
    bundles/STUDY-blend, which holds them with their weights.
    """
    from hms_tune.data.store.prepare import prepare
    from hms_tune.database.queries.data_sets import data_of_study
    from hms_tune.export.blend import write_blend
    from hms_tune.export.place import bundle_path, check_vacant, point_to_newest
    from hms_tune.machine.device import resolve_device
    from hms_tune.studies.export_best import best_trial, export_watched
    from hms_tune.studies.lookup import find_study
    from hms_tune.tracking.console import ConsoleObserver
    from hms_tune.tracking.observers import trackers

    study = study_name(study)
    if not STUDY_NAME.fullmatch(study):
        raise UsageError(
            f"{json.dumps(study)} is no study name", hint="hms-tune study list names those there are"
        )
    settings = Settings.from_environment()
    resolve_device(device)
    if confirm:
        _confirm(study, storage, data, device)
    with opened(storage, to="read") as database:
        if blend is None:
            choices = [best_trial(database, study, number=trial)]
        else:
            numbers = _blended(database, study, settings, most=blend)
            choices = [best_trial(database, study, number=number) for number in numbers]
        with database.transaction() as connection:
            known_data = data_of_study(connection, find_study(database, study))
    root = data_root(data, choices[0].study_file, settings)
    target = out or bundle_path(study, choices[0].winner.number if blend is None else "blend")
    check_vacant(target)
    console = Terminal(stderr=True)
    log_to(console)
    with progress_bar("preparing", "files", console) as progress:
        store = prepare(root, progress=progress)
    if known_data is not None and known_data.digest != store.manifest.digest:
        console.print(f"Beware: the trials of {study} ran on other data than those in {root}", soft_wrap=True)
    _say_choice(choices, console)

    def exported(choice: Choice, path: Path) -> Exported:
        return export_watched(
            choice,
            store,
            path,
            device=device,
            refit=refit,
            checkpoint_every_s=settings.checkpoint_seconds,
            observers=[ConsoleObserver(console), *trackers(choice.study_file, settings.home)],
        )

    if blend is not None:
        paths = [bundle_path(study, choice.winner.number, target.parent) for choice in choices]
        for choice, path in zip(choices, paths, strict=True):
            if not path.exists():  # one that was exported before is taken as it is
                exported(choice, path)
        _say_blend(target, write_blend(paths, target, most=blend), as_json)
        return
    done = exported(choices[0], target)
    link = point_to_newest(done.path, study) if out is None else None
    if as_json:
        written = {"path": str(done.path), "link": None if link is None else str(link)}
        report = done.scores.as_json() | written | {"full": done.full}
        report["onnx"] = None if done.onnx is None else asdict(done.onnx)
        typer.echo(json.dumps(report, indent=2))
    else:
        typer.echo(describe(done, link))


def _confirm(study: str, storage: str | None, data: Path | None, device: str) -> None:
    """Train the leading trials again, as one worker of the fleet."""
    from hms_tune.tracking.console import ConsoleObserver
    from hms_tune.worker.confirmation.request import confirmation_file, request_confirmation
    from hms_tune.worker.options import WorkerOptions
    from hms_tune.worker.worker import Worker

    settings, console = Settings.from_environment(), Terminal(stderr=True)
    log_to(console)
    with opened(storage) as database:
        request_confirmation(database, study)
        study_file = confirmation_file(database, study)
    assert study_file is not None
    options = WorkerOptions(
        study_file=study_file,
        storage=storage or settings.storage,
        home=settings.home,
        data_root=data_root(data, study_file, settings),
        artifacts=artifacts_location(settings),
        device=device,
        lease_s=settings.lease_seconds,
        checkpoint_s=settings.checkpoint_seconds,
    )
    observer = ConsoleObserver(console)
    progress = partial(progress_bar, "preparing", "files", console)
    if Worker(options, observer, progress=progress, show_study=observer.show_study).run():
        raise typer.Exit(os.EX_TEMPFAIL)


def _say_choice(choices: Sequence[Choice], console: Terminal) -> None:
    """Say that it is not simply the best of the search."""
    for choice in choices:
        if choice.confirmed:
            console.print(f"trial {choice.winner.number} is exported, the winner of the confirmation")
        elif choice.pending:
            console.print(
                f"trial {choice.winner.number} is exported, the best of the search; "
                "its confirmation is not over"
            )


def _blended(database: Storage, study: str, settings: Settings, *, most: int) -> list[int]:
    """Which of the best trials are to be blended, by the predictions that the fleet kept of them."""
    from hms_tune.export.blend import choose_trials
    from hms_tune.studies.export_best import complete_trials
    from hms_tune.worker.checkpoint_store.open import open_store
    from hms_tune.worker.checkpoint_store.predictions import KeptPredictions

    kept = KeptPredictions(open_store(artifacts_location(settings)), study)
    there = kept.trials()
    best = [number for number in complete_trials(database, study) if number in there][:_BLENDED_FROM]
    if len(best) < 2:
        raise UsageError(
            f"predictions of {len(best)} complete trials are kept in {artifacts_location(settings)}",
            where=f"study {study}",
            hint="A blend needs two or more; set HMS_TUNE_ARTIFACTS as the workers have it",
        )
    return choose_trials({number: kept.of(number) for number in best}, most=most)


def predict(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="Folder that export-best wrote.")],
    root: Annotated[Path, typer.Argument(metavar="ROOT", help="Competition folder.")],
    *,
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
    test_time: Annotated[
        str,
        typer.Option(
            "--test-time",
            metavar="swap,shift",
            help="Average over hemispheres swapped, over the window shifted, or over both.",
        ),
    ] = "",
    temperature: Annotated[
        str,
        typer.Option(
            "--temperature", metavar="NUMBER|fit", help="Above 1: less certain; fit: what suits out of fold."
        ),
    ] = "1",
) -> None:
    """Predict every EEG of one half of a competition folder and write a submission.

    Reads that half alone, prepared or not. Interrupted, it leaves nothing behind. With --test-time or
    --temperature it first says what they do to the KL out of fold.
    """
    from hms_tune.data.store.store import competition_of
    from hms_tune.export.blend import load_bundle
    from hms_tune.export.predict import predict as predict_folder
    from hms_tune.export.submission import check_writable

    check_writable(out)
    model = load_bundle(bundle, device=device, weights=weights)
    change = _adjustment(bundle, _changes(test_time), temperature)

    with ended_as_by_ctrl_c(), progress_bar("predicting", "windows") as progress:
        written = predict_folder(
            model,
            competition_of(root),
            split=split,
            out=out,
            batch_size=batch_size,
            change=change,
            progress=progress,
        )
    typer.echo(str(written))


def kaggle(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="What export-best wrote.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The folder to write.")],
    user: Annotated[
        str, typer.Option("--user", envvar="KAGGLE_USERNAME", help="Your name on Kaggle.")
    ] = "INSERT-USERNAME-HERE",
) -> None:
    """Write what Kaggle needs to predict with a bundle, and to go on searching there.

    A data set with the bundle and this program, a notebook that predicts without the internet, and one that
    trains in sessions of at most twelve hours; with Kaggle's own client these upload them:

    kaggle datasets create -p OUT/dataset --dir-mode zip

    kaggle kernels push -p OUT/inference
    """
    from hms_tune.export.kaggle.folder import write_kaggle_folder

    dataset = write_kaggle_folder(bundle, out, user=user)
    typer.echo(f"{out}: data set {dataset}, notebooks inference and training")


def _adjustment(bundle: Path, test_time: tuple[TestTime, ...], temperature: str) -> Adjustment:
    """What was asked for; its effect is said first, on stderr."""
    from hms_tune.export.adjustment import AS_TRAINED, Adjustment, effect

    given = _temperature(temperature)
    if not test_time and given == 1.0:
        return AS_TRAINED
    found = effect(bundle, test_time, given)
    asked = [*test_time, *([] if given == 1.0 else [f"temperature {given or found.fitted:.3g}"])]
    Terminal(stderr=True).print(f"{', '.join(asked)}: {found}", highlight=False, soft_wrap=True)
    return Adjustment(test_time, given or found.fitted)


def _changes(text: str) -> tuple[TestTime, ...]:
    """What predictions are averaged over, without repeats."""
    asked = [name.strip() for name in text.split(",") if name.strip()]
    known = get_args(TestTime)
    if unknown := [name for name in asked if name not in known]:
        raise UsageError(
            f"--test-time {json.dumps(unknown[0])} is unknown", hint=f"Give {' or '.join(known)}, or both"
        )
    return tuple(name for name in known if name in asked)


def _temperature(text: str) -> float | None:
    """A positive number; None: the one that fits best."""
    if text == "fit":
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0.0 < value < math.inf:
        raise UsageError(
            f"--temperature {json.dumps(text)} is no positive number", hint="Give a number, or fit"
        )
    return value


def blend(
    bundles: Annotated[
        list[Path], typer.Argument(metavar="BUNDLE...", help="Folders that export-best wrote.")
    ],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="The blend, a new folder.")],
    most: Annotated[
        int | None, typer.Option("--most", min=1, help="Most bundles in it; as many as help by default.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Blend bundles of one competition folder: weights by their out-of-fold predictions, judged fairly.

    hms-tune predict and hms_tune.load_bundle take the blend as they take a bundle.
    """
    from hms_tune.export.blend import write_blend

    _say_blend(out, write_blend(bundles, out, most=most), as_json)


def _say_blend(out: Path, found: Blending, as_json: bool) -> None:
    from hms_tune.export.blend import read_blend_config

    members = read_blend_config(out).members
    if as_json:
        listed = [member.model_dump(mode="json") for member in members]
        typer.echo(json.dumps({"path": str(out), "members": listed} | asdict(found), indent=2))
        return
    lines = [str(out)]
    lines += [f"{member.weight:6.1%}  {member.study}, trial {member.trial}" for member in members]
    typer.echo("\n".join([*lines, str(found)]))


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
