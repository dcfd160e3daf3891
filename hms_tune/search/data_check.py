"""Whether a data set can serve a study, before its first trial starts."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from hms_tune.config.input import InputConfig
from hms_tune.config.range_corners import configs_at_corners
from hms_tune.config.study_file import StudyFile
from hms_tune.config.trial import DataConfig
from hms_tune.data.folds import assign_folds
from hms_tune.data.identity import DataIdentity
from hms_tune.data.labels import Labels
from hms_tune.data.soft_labels import labelled_rows
from hms_tune.data.store.store import Store
from hms_tune.data.store.windows import WindowSource


def check_data(study_file: StudyFile, store: Store) -> DataIdentity:
    """Check that the patients fill the folds, and that every input that may be drawn is there.

    Returns
    -------
    What tells the data and their folds from others

    Raises
    ------
    DataError
        If a trial of the study could not start on this data.
    """
    inputs = configs_at_corners(study_file.space.entries["input"], "input", InputConfig)
    reads_spectrograms = any(config.needs_spectrogram for config in inputs)
    folds = hashlib.sha256()
    for labels, assigned in check_folds(study_file, store.train, store.root):
        soft = () if labels.soft is None else (labels.soft,)
        for values in (labels.eeg_id, labels.eeg_offset_seconds, assigned, *soft):
            folds.update(np.ascontiguousarray(values).tobytes())
        if reads_spectrograms:
            WindowSource(store, labels, torch.device("cpu")).require_spectrograms()
    return DataIdentity(
        digest=store.manifest.digest,
        folds=folds.hexdigest(),
        eegs=int(store.train["eeg_id"].nunique()),
        rows=len(store.train),
        patients=int(store.train["patient_id"].nunique()),
    )


def check_folds(
    study_file: StudyFile, train: pd.DataFrame, root: Path
) -> Iterator[tuple[Labels, NDArray[np.int64]]]:
    """Labels and folds of every way in which a study may split, checked as they are asked for.

    Parameters
    ----------
    train : the table of the competition folder
    root : the folder

    Raises
    ------
    DataError
        If the patients do not fill the folds, or soft labels are missing.
    """
    for config in configs_at_corners(study_file.space.entries["data"], "data", DataConfig):
        labels = labelled_rows(train, root, config)
        yield labels, assign_folds(labels, config)
