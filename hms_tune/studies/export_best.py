"""From a study in the database, or a study file alone, to a bundle on disk, with observers watching."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial
from optuna.trial import TrialState as OptunaState

from hms_tune.config.settings import DEFAULT_CHECKPOINT_SECONDS
from hms_tune.config.study_file import StudyFile, load_study_file
from hms_tune.data.store.prepare import prepare
from hms_tune.data.store.store import Store
from hms_tune.database.connect import Storage
from hms_tune.database.optuna_trial import trial_number
from hms_tune.database.queries.confirmations import confirmation_progress
from hms_tune.errors import ConfigError, HmsTuneError, UsageError
from hms_tune.export.export import Exported, RefitMode, Winner, export_best
from hms_tune.machine.device import resolve_device
from hms_tune.search.optuna_private import study_id_of
from hms_tune.search.study import stored_study_file
from hms_tune.search.suggest import config_of, fixed_config
from hms_tune.studies.lookup import load_study
from hms_tune.studies.score import stored_corrected
from hms_tune.training.events import Event
from hms_tune.training.observer import JobType, KeepsBundles, Observer, TrialInfo
from hms_tune.trial_state import AttemptState


@dataclass(frozen=True, slots=True)
class Choice:
    """The trial to export, the study file it was drawn from, and the number of its last attempt.

    ``job_type`` is what observers are told that it is. ``confirmed``: it is the best of the trials that were
    confirmed, not of the search. ``pending``: a confirmation is under way, and has not decided. ``params``:
    what was drawn for the trial.
    """

    winner: Winner
    study_file: StudyFile
    attempt: int
    job_type: JobType = "export"
    confirmed: bool = False
    pending: bool = False
    params: Mapping[str, Any] = field(default_factory=dict)


def best_trial(storage: Storage, study: str, *, number: int | None = None) -> Choice:
    """The winner of the confirmation, else the complete trial with the smallest KL; or that number.

    Raises
    ------
    UnknownStudyError
        If the storage has no such study.
    UsageError
        If no trial is complete yet, or the one asked for is not.
    """
    loaded = load_study(storage, study)
    study_file = stored_study_file(loaded)
    with storage.transaction() as connection:
        progress = confirmation_progress(connection, study)
    first = None if progress is None else progress.winner
    pending = number is None and progress is not None and first is None
    confirmed = number is None and first is not None
    if number is None and first is not None:
        number = first.trial
    trial = _chosen(loaded.get_trials(deepcopy=False), study, number)
    try:
        config = config_of(study_file.space, trial.params)
    except ConfigError as error:
        raise UsageError(
            f"trial {trial.number} cannot be trained again: {error.what}",
            where=f"study {study}",
            hint=f"Choose another with --trial; hms-tune study show {study} names them",
        ) from error
    ranking = None if first is None or progress is None else progress.ranking
    winner = Winner(
        study=study,
        number=trial_number(trial),
        config=config,
        value=trial.value,
        ranking=ranking,
        corrected=stored_corrected(storage, study_id_of(loaded), trial_number(trial)),
    )
    return Choice(winner, study_file, trial.number, confirmed=confirmed, pending=pending, params=trial.params)


def complete_trials(storage: Storage, study: str) -> list[int]:
    """Numbers of the complete trials, the best first.

    Raises
    ------
    UnknownStudyError
        If the storage has no such study.
    """
    trials = load_study(storage, study).get_trials(deepcopy=False, states=(OptunaState.COMPLETE,))
    ranked = [(trial.value, trial_number(trial)) for trial in trials if trial.value is not None]
    return [number for _, number in sorted(ranked)]


def _chosen(trials: Sequence[FrozenTrial], study: str, number: int | None) -> FrozenTrial:
    where = f"study {study}"
    complete = [trial for trial in trials if trial.state == OptunaState.COMPLETE and trial.value is not None]
    if number is None:
        if not complete:
            raise UsageError("no trial is complete yet", where=where, hint="Wait, or run more workers")
        return min(complete, key=lambda trial: (trial.value, trial.number))
    for trial in complete:
        if number in (trial_number(trial), trial.number):
            return trial
    if any(trial.number == number for trial in trials):
        raise UsageError(f"trial {number} did not complete", where=where, hint="Choose a complete one")
    raise UsageError(f"no trial {number}", where=where, hint=f"hms-tune study show {study} names them")


def export_watched(
    choice: Choice,
    store: Store,
    out: Path,
    *,
    device: str = "auto",
    refit: RefitMode = "none",
    checkpoint_every_s: float = DEFAULT_CHECKPOINT_SECONDS,
    observers: Sequence[Observer] = (),
) -> Exported:
    """Export a trial while observers are told its story; see :func:`hms_tune.export.export.export_best`."""
    winner = choice.winner
    trial = TrialInfo(
        study=winner.study,
        trial=winner.number,
        attempt=choice.attempt,
        config=winner.config,
        params={},
        slot=str(resolve_device(device)),
        job_type=choice.job_type,
    )

    def on_event(event: Event) -> None:
        for observer in observers:
            observer.event(trial, event)

    for observer in observers:
        observer.trial_started(trial)
    try:
        exported = export_best(
            winner,
            store,
            out,
            device=device,
            refit=refit,
            checkpoint_every_s=checkpoint_every_s,
            on_event=on_event,
        )
    except HmsTuneError as error:
        for observer in observers:
            observer.trial_ended(trial, AttemptState.FAILED, None, str(error))
        raise
    else:
        for observer in observers:
            if isinstance(observer, KeepsBundles):
                observer.bundle_written(trial, exported.path)
            observer.trial_ended(trial, AttemptState.COMPLETE, exported.scores.kl, None)
        return exported
    finally:
        for observer in observers:
            observer.close()


def train(
    study: str | Path,
    data: Path | str,
    out: Path | str,
    *,
    values: Mapping[str, object] | None = None,
    device: str = "auto",
    refit: RefitMode = "none",
) -> Exported:
    """Train a study file's configuration on its folds, and write a bundle.

    Parameters
    ----------
    study : name of a study file, or its path
    data : the competition folder
    out : the bundle's folder, which must not exist yet
    values : dotted keys and their values: one for each range, or in place of what the file says
    device : auto, cpu or cuda:N
    refit : ``full`` also trains one network on all rows

    Raises
    ------
    ConfigError
        If a range has no value, a key is unknown, or a value does not fit.
    UsageError
        If ``out`` exists or cannot be created.
    """
    given = {key: json.dumps(value) for key, value in (values or {}).items()}
    choice = one_training(load_study_file(study), given)
    return export_watched(choice, prepare(Path(data)), Path(out), device=device, refit=refit)


def one_training(study_file: StudyFile, given: Mapping[str, str]) -> Choice:
    """A study file's only configuration, to be trained outside of a search.

    Parameters
    ----------
    given : dotted keys and their values as text: for the ranges, and in place of what the file says

    Raises
    ------
    ConfigError
        If a range has no value, a key is unknown, or a value does not fit.
    """
    config = fixed_config(study_file.space, given)
    winner = Winner(study=study_file.study, number=0, config=config, value=None)
    return Choice(winner, study_file, 0, job_type="training")


def another_training(choice: Choice, given: Mapping[str, str]) -> Choice:
    """A trial of a search once more, with other values at some keys.

    Raises
    ------
    ConfigError
        If a key is unknown, a value does not fit, or a range of another branch has no value.
    """
    config = fixed_config(choice.study_file.space, given, choice.params)
    winner = replace(choice.winner, config=config)
    if given:  # what the search saw is of other values
        winner = replace(winner, value=None, corrected=None)
    return replace(choice, winner=winner, job_type="training")
