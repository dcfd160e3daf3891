"""Which patients train, which validate, and which stay outside the whole search.

A model that knows a patient's other EEGs scores far better than its signal earns, so a patient is always on
one side of a split.
"""

from __future__ import annotations

import hashlib
import warnings

import numpy as np
from numpy.typing import NDArray

from hms_tune.config.trial import DataConfig
from hms_tune.data.labels import Labels
from hms_tune.errors import DataError

HELD_OUT = -1
"""The fold number of rows whose patient no trial ever sees."""


def assign_folds(labels: Labels, config: DataConfig, *, shuffle_seed: int = 0) -> NDArray[np.int64]:
    """Give every row a fold in each repeat, or :data:`HELD_OUT`.

    Neither the order of the rows nor the held-out draw of one patient depends on which other rows there are,
    so all trials of a study, on any machine, share their folds; unless each brings a ``shuffle_seed`` of its
    own, which keeps a search from fitting one particular split (Nagler et al., "Reshuffling resampling splits
    can improve generalization of hyperparameter optimization", 2024, arXiv:2405.15393).

    Parameters
    ----------
    labels : rows with their patients
    config : ``folds``, ``fold_repeats``, ``fold_scheme``, ``fold_seed`` and ``holdout`` are used
    shuffle_seed : added to the seed of the folds; the held-out patients do not follow it

    Returns
    -------
    int64 (fold_repeats, n); the same rows are held out in every repeat

    Raises
    ------
    DataError
        If there are too few patients, or a fold would be empty.
    """
    searched = _searched_rows(labels, config)
    consensus, patients = labels.votes[searched].argmax(axis=1), labels.patient_id[searched]
    folds = np.full((config.fold_repeats, len(labels)), HELD_OUT, dtype=np.int64)
    for repeat, numbers in enumerate(folds):
        seed = (config.fold_seed + shuffle_seed + repeat) % 2**32
        for fold, validation in enumerate(_split(consensus, patients, config, seed)):
            numbers[searched[validation]] = fold
    return folds


def fold_rows(folds: NDArray[np.int64], fold: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Training and validation rows of a fold, which is counted through the repeats.

    Parameters
    ----------
    folds : int64 (fold_repeats, n), of :func:`assign_folds`
    """
    searched = folds[0] != HELD_OUT
    repeat, number = divmod(fold, int(folds[0].max()) + 1)
    validation = folds[repeat] == number
    return np.flatnonzero(~validation & searched), np.flatnonzero(validation)


def _searched_rows(labels: Labels, config: DataConfig) -> NDArray[np.int64]:
    """The rows that are not held out, in an order that the order of the labels has no part in.

    The splitters' own draws go by that order.
    """
    patients = np.unique(labels.patient_id)
    held_out = held_out_patients(patients, share=config.holdout, seed=config.fold_seed)
    remaining = len(patients) - len(held_out)
    if remaining < config.folds:
        outside = f" ({len(held_out)} of {len(patients)} held out)" if len(held_out) else ""
        raise DataError(
            f"{remaining} patient{'s'[: remaining != 1]} cannot fill {config.folds} folds{outside}",
            where="train.csv, column patient_id",
            hint="Lower data.folds or data.holdout, or add patients: a patient is never on both sides.",
        )
    searched = np.flatnonzero(~np.isin(labels.patient_id, held_out))
    return searched[np.lexsort((labels.eeg_offset_seconds[searched], labels.eeg_id[searched]))]


def patients_needed(config: DataConfig) -> int:
    """The least number of patients that fill the folds when those held out are taken away."""
    count = config.folds
    while count - _number_held_out(count, config.holdout) < config.folds:
        count += 1
    return count


def held_out_patients(patients: NDArray[np.int64], *, share: float, seed: int) -> NDArray[np.int64]:
    """Draw a share of the patients (at least one when the share is positive), sorted.

    Each patient draws a number from the seed and its own identifier, and the lowest are held out: adding or
    removing other patients moves only those at the edge.
    """
    if share <= 0.0:
        return np.empty(0, dtype=np.int64)
    drawn = sorted(patients.tolist(), key=lambda patient: _draw(seed, patient))
    return np.array(sorted(drawn[: _number_held_out(len(patients), share)]), dtype=np.int64)


def _number_held_out(patients: int, share: float) -> int:
    return max(1, round(share * patients)) if share > 0.0 else 0


def _draw(seed: int, patient: int) -> bytes:
    return hashlib.blake2b(f"{seed}:{patient}".encode(), digest_size=8).digest()


def _split(
    consensus: NDArray[np.int64], patients: NDArray[np.int64], config: DataConfig, seed: int
) -> list[NDArray[np.int64]]:
    """The validation rows of each fold."""
    # Loaded here: it takes a second, and most commands split nothing.
    from sklearn.model_selection import GroupKFold, StratifiedGroupKFold

    splitter = GroupKFold if config.fold_scheme == "group_k_fold" else StratifiedGroupKFold
    folds = splitter(n_splits=config.folds, shuffle=True, random_state=seed)
    try:
        with warnings.catch_warnings():
            # a class rarer than the folds is normal here; such a fold lacks it and is still scored
            warnings.filterwarnings("ignore", "The least populated class", UserWarning)
            validation = [rows for _, rows in folds.split(consensus, consensus, groups=patients)]
    except ValueError as error:
        raise DataError(
            f"the rows cannot be split into {config.folds} stratified folds: {error}",
            where="train.csv",
            hint="Lower data.folds, or set data.fold_scheme to group_k_fold.",
        ) from error
    empty = [fold for fold, rows in enumerate(validation) if not len(rows)]
    if empty:
        raise DataError(
            f"fold {empty[0]} of {config.folds} would have no rows",
            where="train.csv, column patient_id",
            hint="Lower data.folds, or set data.fold_scheme to group_k_fold.",
        )
    return validation
