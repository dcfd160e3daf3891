"""``hms-tune export-best`` and ``hms-tune train``."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from hms_tune.cli.console import log_to, progress_bar
from hms_tune.cli.options import (
    DataOption,
    DeviceOption,
    JsonOption,
    StorageOption,
    StudyArgument,
    artifacts_location,
    data_root,
    key_and_value,
    opened,
    study_name,
)
from hms_tune.cli.views.exported import say_blend, say_exported, say_left_out
from hms_tune.config.settings import Settings
from hms_tune.config.study_file import STUDY_NAME, StudyFile, load_study_file
from hms_tune.errors import UsageError
from hms_tune.machine.terminal import Terminal

if TYPE_CHECKING:
    from hms_tune.data.identity import DataIdentity
    from hms_tune.database.connect import Storage
    from hms_tune.export.export import Exported, RefitMode
    from hms_tune.studies.export_best import Choice

_BLENDED_FROM = 40
"""A blend is chosen from so many of the best trials; worse ones seldom help."""


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


def _pairs(values: list[str] | None) -> list[str] | None:
    """Refuse what is not KEY=VALUE before what stands behind it is taken for a word too many."""
    for text in values or ():
        key_and_value(text, option="--set")
    return values


def train(
    study: StudyArgument,
    *,
    values: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="A value for a range, or another one; repeatable.",
            callback=_pairs,
        ),
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

    given = dict(key_and_value(text, option="--set") for text in values or ())
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

        equipment = Equipment.alone(self._place, self._store.manifest.digest)
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
    from hms_tune.tracking.console import ConsoleObserver
    from hms_tune.worker.confirmation.request import confirmation_file, request_confirmation
    from hms_tune.worker.options import WorkerOptions
    from hms_tune.worker.worker import Worker

    settings, console = Settings.from_environment(), Terminal(stderr=True)
    log_to(console)
    with opened(storage) as database:
        say_left_out(study, request_confirmation(database, study).left_out)
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
    there, complete = kept.trials(), complete_trials(database, study)
    best = [number for number in complete if number in there][:_BLENDED_FROM]
    ahead = complete[: complete.index(best[-1])] if best else complete[:_BLENDED_FROM]
    say_left_out(study, {number: "no predictions are kept of it" for number in ahead if number not in there})
    if len(best) < 2:
        raise UsageError(
            f"predictions of {len(best)} complete trials are kept in {artifacts_location(settings)}",
            where=f"study {study}",
            hint="A blend needs two or more; set HMS_TUNE_ARTIFACTS as the workers have it",
        )
    return choose_trials({number: kept.of(number) for number in best}, most=most)
