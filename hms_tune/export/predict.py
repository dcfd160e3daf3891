"""A bundle over a competition folder: from parquet files to a submission."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from hms_tune.data.files.competition import Competition
from hms_tune.data.labels import Labels, make_labels
from hms_tune.data.schema import Split
from hms_tune.data.store.prepare import prepare
from hms_tune.data.store.store import Store, store_path, test_rows
from hms_tune.data.store.windows import WindowSource
from hms_tune.errors import BundleError
from hms_tune.export.bundle import Bundle, Weights, load_bundle
from hms_tune.export.submission import check_writable, write_submission
from hms_tune.training.images.images import make_images
from hms_tune.training.step.inference import predict_probabilities

Progress = Callable[[int, int], None]


def predict(
    bundle_path: Path,
    root: Path,
    *,
    split: Split = "test",
    out: Path = Path("submission.csv"),
    device: str = "auto",
    weights: Weights | None = None,
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> Path:
    """Predict every EEG of one half of a competition folder and write ``submission.csv``.

    Nothing but ``out`` is left behind: the folder's own store is used where there is one, and a temporary
    one otherwise.

    Parameters
    ----------
    bundle_path : a bundle
    root : a competition folder; one without spectrograms serves models that read EEG alone
    split : ``test``, or ``train`` for one row per labelled EEG
    out : where the rows go
    batch_size : windows at once; the trial's ``test_batch_size`` by default
    progress : called with windows done and windows in all

    Raises
    ------
    BundleError, DataError, UsageError
        Before anything is written.
    """
    check_writable(out)
    bundle = load_bundle(bundle_path, device=device, weights=weights)
    competition = Competition.open(root, splits=(split,))
    if bundle.transform.needs_spectrogram and not competition.has_spectrograms(split):
        raise BundleError(
            "this model reads spectrograms, and the folder has none",
            where=competition.folder(split, "spectrogram"),
            mend="Use a bundle of a study with input.kaggle: null",
        )
    with _prepared(root) as store:
        rows = test_rows(store) if split == "test" else make_labels(store.train, rows="eeg", min_votes=1)
        probabilities = _predict_rows(bundle, store, rows, batch_size, progress)
        return write_submission(out, rows.eeg_id, probabilities)


def _predict_rows(
    bundle: Bundle, store: Store, rows: Labels, batch_size: int | None, progress: Progress | None
) -> NDArray[np.float32]:
    source = WindowSource(store, rows, bundle.device)
    return predict_probabilities(
        bundle.networks,
        lambda index: make_images(source, bundle.transform, index),
        torch.arange(len(rows)),
        training=bundle.config.config.training,
        device=bundle.device,
        batch_size=batch_size,
        progress=progress,
    )


@contextmanager
def _prepared(root: Path) -> Iterator[Store]:
    """A current store of the folder: its own where it has one, else one that is gone afterwards."""
    if store_path(root).is_dir():
        yield prepare(root)
        return
    with tempfile.TemporaryDirectory(prefix="hms-tune-") as folder:
        yield prepare(root, store=Path(folder) / "store")
