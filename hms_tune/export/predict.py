"""A bundle over a competition folder: from parquet files to a submission."""

from __future__ import annotations

import itertools
from contextlib import closing
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hms_tune.data.files.competition import Competition
from hms_tune.data.files.half import Half, Windows
from hms_tune.data.schema import CLASSES, Kind, Split
from hms_tune.data.store.windows import eeg_as_read, spectrogram_as_read
from hms_tune.errors import BundleError
from hms_tune.export.adjustment import AS_TRAINED, Adjustment
from hms_tune.export.blend import Blend
from hms_tune.export.bundle import Bundle
from hms_tune.export.submission import write_submission
from hms_tune.machine.progress import ProgressCallback
from hms_tune.machine.regular_file import check_writable


def predict(
    bundle: Bundle | Blend,
    root: Path,
    *,
    split: Split = "test",
    out: Path = Path("submission.csv"),
    batch_size: int | None = None,
    change: Adjustment = AS_TRAINED,
    progress: ProgressCallback | None = None,
) -> Path:
    """Predict every EEG of one half of a competition folder and write ``submission.csv``.

    What is predicted is read and nothing else: neither the other half, nor spectrograms for a model of EEG
    alone, nor a store. Nothing but ``out`` is written, as a whole or not at all.

    Parameters
    ----------
    bundle : of :func:`~hms_tune.export.bundle.load_bundle`
    root : a competition folder; one without spectrograms serves models that read EEG alone
    split : ``test``, or ``train`` for one row per labelled EEG
    out : where the rows go
    batch_size : windows at once; the trial's ``test_batch_size`` by default
    change : test-time augmentation and temperature
    progress : called with windows done and windows in all

    Raises
    ------
    BundleError, DataError, UsageError
        Before anything is written; at a defect of a signal file, when its turn comes.
    """
    check_writable(out, named_by="--out")
    competition = Competition.open(root, splits=(split,))
    kinds = _needed_kinds(bundle)
    if "spectrogram" in kinds and not competition.has_spectrograms(split):
        raise BundleError(
            "this model reads spectrograms, and the folder has none",
            where=competition.folder(split, "spectrogram"),
            hint="Use a bundle of a study with input.kaggle: null",
        )
    half = Half.open(competition, split, kinds)
    probabilities = _predict_rows(bundle, half, batch_size, change, progress)
    return write_submission(out, half.labels.eeg_id, probabilities)


def _needed_kinds(bundle: Bundle | Blend) -> tuple[Kind, ...]:
    """The signals that some model reads."""
    kinds: list[Kind] = ["eeg"] if any(each.needs_eeg for each in bundle.inputs) else []
    return (*kinds, "spectrogram") if any(each.needs_spectrogram for each in bundle.inputs) else tuple(kinds)


def _predict_rows(
    bundle: Bundle | Blend,
    half: Half,
    batch_size: int | None,
    change: Adjustment,
    progress: ProgressCallback | None,
) -> NDArray[np.float32]:
    size = batch_size or bundle.batch_size
    parts: list[NDArray[np.float32]] = []
    done = 0
    if progress is not None:
        progress(0, len(half))
    with closing(half.windows(ahead=size)) as windows:  # a batch is decoded while one is predicted
        while rows := list(itertools.islice(windows, size)):

            def batch(kind: Kind, rows: list[Windows] = rows) -> Tensor:
                return torch.from_numpy(np.stack([row[kind] for row in rows])).to(bundle.device)

            eeg = eeg_as_read(batch("eeg")) if "eeg" in half.files else None
            spectrogram = spectrogram_as_read(batch("spectrogram")) if "spectrogram" in half.files else None
            parts.append(change.predict(bundle, eeg, spectrogram))
            done += len(rows)
            if progress is not None:
                progress(done, len(half))
    return np.concatenate(parts) if parts else np.empty((0, len(CLASSES)), np.float32)
