"""Soft labels for rows of few votes, each by the networks whose training left the row's patient out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from hms_tune.config.trial import TrialConfig
from hms_tune.data.folds import assign_folds, fold_rows
from hms_tune.data.labels import Labels, make_labels
from hms_tune.data.number_columns import read_numbers
from hms_tune.data.soft_labels import SoftLabels, soft_labels_path
from hms_tune.data.store.store import Store
from hms_tune.errors import BundleError, UsageError, first_line
from hms_tune.export.bundle import load_bundle
from hms_tune.export.out_of_fold import table_name
from hms_tune.machine.progress import ProgressCallback
from hms_tune.training.step.inference import predict_probabilities
from hms_tune.training.workspace import Workspace, shuffle_seed


@dataclass(frozen=True, slots=True)
class Labelled:
    """What was written: how many rows of how many patients have a label, of so many rows in all."""

    path: Path
    rows: int
    patients: int
    rows_in_all: int


def label(
    folder: Path,
    store: Store,
    *,
    name: str | None = None,
    most_votes: int,
    device: str = "auto",
    progress: ProgressCallback | None = None,
) -> Labelled:
    """Write soft labels for every row of few votes into the store's competition folder.

    Parameters
    ----------
    folder : a bundle of this competition folder, with the networks of its folds
    name : what a study file names them by; the bundle's study by default
    most_votes : rows of more votes get none
    progress : called with networks done and networks in all

    Raises
    ------
    BundleError
        If the bundle was not trained on this data and these folds.
    UsageError
        If a row's patient was in the training of every network.
    """
    bundle = load_bundle(folder, device=device, weights="folds")
    config = bundle.config.config
    if config.data.soft_labels is not None:
        raise UsageError(
            "it learnt from soft labels itself, so patients taught it that it does not know of",
            where=folder,
            hint="Label with a bundle that learnt from votes alone",
        )
    taught = make_labels(store.train, rows=config.data.rows, min_votes=config.data.min_votes)
    trained = _trained_patients(folder, config, taught, networks=len(bundle.networks))
    everything = config.model_copy(update={"data": config.data.model_copy(update={"min_votes": 1})})
    data = Workspace(store, bundle.device).trial_data(everything)
    few = np.flatnonzero(data.labels.total_votes <= most_votes)
    unseen = np.array([~np.isin(data.labels.patient_id[few], each) for each in trained])
    if seen := np.unique(data.labels.patient_id[few[~unseen.any(axis=0)]]).tolist():
        raise UsageError(
            f"{len(seen)} patients were in the training of each of its {len(trained)} networks "
            f"(patient {seen[0]} first)",
            where=folder,
            hint="Export a trial whose folds are all trained (data.train_folds: null)",
        )
    sums = np.zeros((len(few), len(bundle.classes)))
    for number, network in enumerate(bundle.networks):
        if progress is not None:
            progress(number, len(bundle.networks))
        if unseen[number].any():
            sums[unseen[number]] += predict_probabilities(
                [network],
                data.images.clean,
                torch.from_numpy(few[unseen[number]]),
                training=config.training,
                device=bundle.device,
            )
    probabilities = (sums / np.maximum(unseen.sum(axis=0), 1)[:, None]).astype(np.float32)
    path = soft_labels_path(store.root, name or bundle.config.study)
    SoftLabels(
        teacher=f"{bundle.config.study}, trial {bundle.config.trial}",
        rows=config.data.rows,
        taught_by=np.unique(np.concatenate(trained)),
        eeg_id=data.labels.eeg_id[few],
        eeg_offset_seconds=data.labels.eeg_offset_seconds[few],
        probabilities=probabilities,
    ).write(path)
    return Labelled(path, len(few), len(np.unique(data.labels.patient_id[few])), len(data.labels))


def _trained_patients(
    folder: Path, config: TrialConfig, labels: Labels, *, networks: int
) -> list[NDArray[np.int64]]:
    """The patients in the training of each network.

    They are worked out from the configuration, as training does, and believed only if the bundle's own
    out-of-fold predictions lie in the same folds.
    """
    folds = assign_folds(labels, config.data, shuffle_seed=shuffle_seed(config))
    splits = [fold_rows(folds, fold) for fold in range(networks)]
    try:
        columns = ("row", "eeg_id", "patient_id", "fold")
        table = read_numbers(folder / table_name(), whole=columns).to_pandas()
    except (pa.ArrowException, OSError, ValueError, TypeError, LookupError, MemoryError) as error:
        raise BundleError(
            f"its out-of-fold predictions do not say who was left out: {first_line(error)}",
            where=folder,
            hint="Export the trial again",
        ) from error
    for fold, (_, validation) in enumerate(splits):
        told = table[table["fold"] == fold].sort_values("row")
        agrees = (
            np.array_equal(told["row"], validation)
            and np.array_equal(told["eeg_id"], labels.eeg_id[validation])
            and np.array_equal(told["patient_id"], labels.patient_id[validation])
        )
        if not agrees:
            raise BundleError(
                f"fold {fold} of this data is not the one that the bundle left out, so nobody knows whom its "
                "networks saw",
                where=folder,
                hint="Give the competition folder that it was exported on",
            )
    return [np.unique(labels.patient_id[train]) for train, _ in splits]
