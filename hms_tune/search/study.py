"""The Optuna study of a study file: made by the first worker, joined by the others."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import optuna
from optuna.distributions import check_distribution_compatibility
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from hms_tune.config.ranges import differences
from hms_tune.config.study_file import StudyFile
from hms_tune.errors import ConfigError, SpaceChangedError, StorageError
from hms_tune.search.list_turns import was_given
from hms_tune.search.promotion.surrogate import Known
from hms_tune.search.pruners import make_pruner
from hms_tune.search.samplers import make_sampler
from hms_tune.search.suggest import distributions, grid_size

STUDY_FILE = "hms_tune:study_file"
SPACE_HASH = "hms_tune:space_hash"
METRIC = "KL"
SHOWN_DIFFERENCES = 5


def create_or_load(
    storage: BaseStorage,
    study_file: StudyFile,
    *,
    worker_seed: int = 0,
    elsewhere: Sequence[Known] = (),
    make_way: Callable[[], bool] = lambda: True,
) -> optuna.Study:
    """The study of a study file, with this worker's sampler and pruner.

    The study keeps the file that joined last: budget, tracking, sampler and data folder may change while it
    runs; the space and what trials report may not, once a trial has reported a score.

    Parameters
    ----------
    storage : the fleet's storage
    study_file : the file
    worker_seed : different for every slot of every worker
    elsewhere : what is known from a parent study
    make_way : called before the search of a study that knows nothing yet is changed; whether it may be

    Raises
    ------
    SpaceChangedError
        If the study was started with another space, and it is too late to change it.
    StorageError
        If a study of that name was not made by hms-tune.
    """
    sampler = make_sampler(study_file, worker_seed=worker_seed, elsewhere=elsewhere)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study = optuna.create_study(
            study_name=study_file.study,
            storage=storage,
            direction="minimize",
            sampler=sampler,
            pruner=make_pruner(study_file),
            load_if_exists=True,
        )
        if STUDY_FILE not in study.user_attrs:
            _adopt(study, study_file)
    attributes = study.user_attrs
    if STUDY_FILE in attributes:
        changes = _changes(study_file, stored_study_file(study))
        if changes and not (_may_begin_anew(study, study_file) and make_way()):
            raise _too_late(study_file, changes)
    stored = study_file.to_json()
    if attributes.get(STUDY_FILE) != stored:
        study.set_user_attr(STUDY_FILE, stored)
    if attributes.get(SPACE_HASH) != study_file.space_hash:
        study.set_user_attr(SPACE_HASH, study_file.space_hash)
    return study


def _adopt(study: optuna.Study, study_file: StudyFile) -> None:
    """Name the metric of a study that has no file yet, unless it is someone else's."""
    empty = not study.get_trials(deepcopy=False)
    # Read again: another worker may have stored its file and drawn a trial since.
    adoptable = empty and study.directions == [StudyDirection.MINIMIZE]
    if STUDY_FILE not in study.user_attrs and not adoptable:
        raise StorageError(
            f'a study "{study_file.study}" exists that hms-tune did not make',
            where=study_file.source,
            hint="Give the study file another name: study: …",
        )
    study.set_metric_names([METRIC])


def stored_study_file(study: optuna.Study) -> StudyFile:
    """The study file that a study runs by.

    Raises
    ------
    StorageError
        If the study was not made by hms-tune.
    ConfigError
        If this version of hms-tune cannot read it.
    """
    stored = study.user_attrs.get(STUDY_FILE)
    if not isinstance(stored, str):
        raise foreign_study(study.study_name)
    try:
        return StudyFile.from_json(stored)
    except ConfigError as error:
        raise ConfigError(
            f'this version of hms-tune refuses the file of the study "{study.study_name}": {error.what}',
            where=error.where,
            hint="Use the version of hms-tune that the study was started with",
        ) from error


def foreign_study(name: str) -> StorageError:
    """The error of whoever asks for more than a look at a study that another program made."""
    return StorageError(
        f'the study "{name}" was not made by hms-tune',
        hint="It is left alone; hms-tune dashboard shows it, Optuna's own commands change it (optuna --help)",
    )


def trial_limit(study_file: StudyFile, study: optuna.Study | None = None) -> int:
    """The most trials the study can use: its budget, and for a grid no more than its cells.

    What scripts enqueued, in a ``study`` that has begun, comes on top of the cells.
    """
    if study_file.search.sampler != "grid":
        return study_file.budget.trials
    given = 0 if study is None else sum(map(was_given, study.get_trials(deepcopy=False)))
    return min(study_file.budget.trials, grid_size(study_file.space) + given)


def _may_begin_anew(study: optuna.Study, study_file: StudyFile) -> bool:
    """Whether no trial of a study knows anything that another search would contradict.

    Those that failed before they reported a score know nothing. In a grid each has used up a cell.
    """
    trials = study.get_trials(deepcopy=False)
    if study_file.search.sampler == "grid":
        return not trials
    begun = (TrialState.RUNNING, TrialState.COMPLETE)
    return not any(
        trial.state in begun or trial.intermediate_values or not _is_compatible(trial, study_file)
        for trial in trials
    )


def _is_compatible(trial: FrozenTrial, study_file: StudyFile) -> bool:
    """Whether Optuna takes new ranges of the trial's parameters in the trial's study."""
    new = distributions(study_file.space)
    try:
        for name, old in trial.distributions.items():
            if name in new:
                check_distribution_compatibility(old, new[name])
    except ValueError:
        return False
    return True


def _changes(study_file: StudyFile, running: StudyFile) -> list[str]:
    """What a study file would change of a search."""
    changes = [
        f"{name} was {old} and is {new}"
        for name, (old, new) in differences(running.space, study_file.space).items()
    ]
    if study_file.search.pruner.compares_whole_folds != running.search.pruner.compares_whole_folds:
        changes.append(
            f"search.pruner was {running.search.pruner.name} and is {study_file.search.pruner.name}, "
            "and only one of them compares whole folds"
        )
    return changes


def _too_late(study_file: StudyFile, changes: Sequence[str]) -> SpaceChangedError:
    shown = "; ".join(changes[:SHOWN_DIFFERENCES])
    if len(changes) > SHOWN_DIFFERENCES:
        shown += f"; and {len(changes) - SHOWN_DIFFERENCES} more"
    return SpaceChangedError(
        f'the study "{study_file.study}" was started with another search: {shown}',
        where=study_file.source,
        hint=f"Undo the change, or give the file a new name for a new study: study: {study_file.study}-2."
        " Only before a trial has reported a score, and while no worker is at it, may a study be changed",
    )
