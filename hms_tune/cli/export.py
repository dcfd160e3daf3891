"""``hms-tune export-best``, ``train``, ``predict``, ``kaggle`` and ``blend``."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
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
from hms_tune.cli.views.exported import say_blend, say_exported
from hms_tune.config.augmentation import TestTime
from hms_tune.config.settings import Settings
from hms_tune.config.study_file import STUDY_NAME, StudyFile, load_study_file
from hms_tune.errors import UsageError
from hms_tune.machine.stop_signals import ended_as_by_ctrl_c
from hms_tune.machine.terminal import Terminal

if TYPE_CHECKING:
    from hms_tune.data.identity import DataIdentity
    from hms_tune.database.connect import Storage
    from hms_tune.export.adjustment import Adjustment
    from hms_tune.export.export import Exported, RefitMode
    from hms_tune.studies.export_best import Choice

_BLENDED_FROM = 40
"""A blend is chosen from so many of the best trials; worse ones seldom help."""

DeviceOption = Annotated[str, typer.Option("--device", help="auto (a GPU, else the CPU), cpu or cuda:0.")]


DataOption = Annotated[
    Path | None,
    typer.Option(
        "--data", metavar="ROOT", help="Competition folder; else the study file's, else HMS_TUNE_DATA."
    ),
]
RefitOption = Annotated[
    Literal["none", "full"],
    typer.Option("--refit", help="full: also train one network on all rows, held-out patients too."),
]


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
    data: DataOption = None,
    refit: RefitOption = "none",
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
    from hms_tune.database.queries.data_sets import data_of_study
    from hms_tune.export.blend import write_blend
    from hms_tune.export.place import bundle_path, point_to_newest
    from hms_tune.machine.device import resolve_device
    from hms_tune.studies.export_best import best_trial
    from hms_tune.studies.lookup import find_study

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
        numbers = [trial] if blend is None else _blended(database, study, settings, most=blend)
        choices = [best_trial(database, study, number=number) for number in numbers]
        with database.transaction() as connection:
            known_data = data_of_study(connection, find_study(database, study))
    target = out or bundle_path(study, choices[0].winner.number if blend is None else "blend")
    exports = Exports(data, target, device=device, refit=refit, study_file=choices[0].study_file)
    exports.compare(study, known_data)
    _say_choice(choices, Terminal(stderr=True))
    if blend is None:
        done = exports.write(choices[0], target)
        say_exported(done, point_to_newest(done.path, study) if out is None else None, as_json)
        return
    paths = [bundle_path(study, choice.winner.number, target.parent) for choice in choices]
    for choice, path in zip(choices, paths, strict=True):
        if not path.exists():  # one that was exported before is taken as it is
            exports.write(choice, path)
    say_blend(target, write_blend(paths, target, most=blend), as_json)


def train(
    study: StudyArgument,
    *,
    values: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A value for a range, or another one; repeatable."),
    ] = None,
    trial: Annotated[
        int | None, typer.Option("--trial", min=0, help="Train with the values of this complete trial.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="The bundle; by default bundles/STUDY-training."),
    ] = None,
    data: DataOption = None,
    refit: RefitOption = "none",
    device: DeviceOption = "auto",
    storage: StorageOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train one configuration on its folds, outside of a search, and write a bundle.

    It is a study file's without ranges, or with --set for each, or a trial's: --trial 17 --set
    training.epochs=20. No database is needed unless --trial is given.
    """
    from hms_tune.export.place import bundle_path
    from hms_tune.studies.export_best import another_training, best_trial, one_training

    pairs = [text.partition("=") for text in values or ()]
    for key, equals, _ in pairs:
        if not (key and equals):
            raise UsageError(
                f"--set {json.dumps(key)} is not KEY=VALUE", hint="For example --set training.epochs=20"
            )
    given = {key: value for key, _, value in pairs}
    if trial is None:
        choice = one_training(load_study_file(study), given)
    else:
        with opened(storage, to="read") as database:
            choice = another_training(best_trial(database, study_name(study), number=trial), given)
    target = out or bundle_path(choice.winner.study, "training")
    exports = Exports(data, target, device=device, refit=refit, study_file=choice.study_file)
    say_exported(exports.write(choice, target), None, as_json)


class Exports:
    """Writes bundles, watched on the terminal and by what the study file names.

    Raises
    ------
    UsageError
        If the device or the data are not there, or the target is taken.
    """

    def __init__(
        self, data: Path | None, target: Path, *, device: str, refit: RefitMode, study_file: StudyFile
    ) -> None:
        from hms_tune.data.store.prepare import prepare
        from hms_tune.export.place import check_vacant
        from hms_tune.machine.device import resolve_device

        self._place = str(resolve_device(device))
        check_vacant(target)
        self._settings = Settings.from_environment()
        self._root = data_root(data, study_file, self._settings)
        self._device, self._refit = device, refit
        self._console = Terminal(stderr=True)
        log_to(self._console)
        with progress_bar("preparing", "files", self._console) as progress:
            self._store = prepare(self._root, progress=progress)

    def compare(self, study: str, known: DataIdentity | None) -> None:
        """Say so if a study's trials ran on other data."""
        if known is not None and known.digest != self._store.manifest.digest:
            told = f"Beware: the trials of {study} ran on other data than those in {self._root}"
            self._console.print(told, soft_wrap=True)

    def write(self, choice: Choice, path: Path) -> Exported:
        """Train a choice with its weights kept, and write its bundle."""
        from hms_tune.studies.export_best import export_watched
        from hms_tune.studies.record_writer import Equipment
        from hms_tune.tracking.console import ConsoleObserver
        from hms_tune.tracking.observers import trackers

        gpus = 1.0 if self._place.startswith("cuda") else 0.0
        equipment = Equipment(self._place, gpus, self._store.manifest.digest)
        return export_watched(
            choice,
            self._store,
            path,
            device=self._device,
            refit=self._refit,
            checkpoint_every_s=self._settings.checkpoint_seconds,
            observers=[
                ConsoleObserver(self._console),
                *trackers(choice.study_file, self._settings.home, equipment=equipment),
            ],
        )


def _confirm(study: str, storage: str | None, data: Path | None, device: str) -> None:
    """Train the leading trials again, as one worker of the fleet."""
    from hms_tune.studies.confirmation.request import confirmation_file, request_confirmation
    from hms_tune.tracking.console import ConsoleObserver
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
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="What export-best or blend wrote.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The folder to write.")],
    user: Annotated[
        str, typer.Option("--user", envvar="KAGGLE_USERNAME", help="Your name on Kaggle.")
    ] = "INSERT-USERNAME-HERE",
) -> None:
    """Write what Kaggle needs to predict with a bundle or a blend, and to go on searching there.

    A data set with the bundle or blend and this program, a notebook that predicts without the internet, and
    one that trains in sessions of at most twelve hours; with Kaggle's own client these upload them:

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

    say_blend(out, write_blend(bundles, out, most=most), as_json)
