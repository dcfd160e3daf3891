"""A synthetic competition folder on disk."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from hms_tune.data.files.competition import Competition
from hms_tune.data.files.threads import unordered
from hms_tune.data.schema import (
    CLASSES,
    EEG_COLUMNS,
    FRAME_SECONDS,
    SPECTROGRAM_COLUMNS,
    SPLITS,
    TIME_COLUMN,
    VOTE_COLUMNS,
)
from hms_tune.data.synthetic.outline import SMALL, Extent, Plan, Stretch
from hms_tune.data.synthetic.plan import make_plan
from hms_tune.data.synthetic.stretch import recording_samples, render, spectrogram_frames
from hms_tune.errors import DataError, UsageError
from hms_tune.machine.cores import available_cores

ORACLE = "oracle.parquet"
"""Beside the tables: the true class probabilities of every window. Training never reads it."""


def synthesize(
    root: Path,
    *,
    patients: int = 60,
    seed: int = 0,
    signal: float = 1.0,
    extent: Extent = SMALL,
    jobs: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Competition:
    """Write a competition folder whose classes are told apart by the signal alone.

    Parameters
    ----------
    root : the folder to make; it must not exist, or be empty
    patients : people in the training half
    seed : the same seed gives the same bytes, whatever ``jobs`` is
    signal : amplitude of the patterns; 1 as real recordings have them, 0 for the same competition without any
    extent : bounds of the rest; :data:`~hms_tune.data.synthetic.outline.FULL_SIZE` is that of the real one
    jobs : stretches rendered side by side; all available cores when None
    progress : called with stretches done and stretches in all

    Returns
    -------
    Competition
        The folder, complete: it appears under its name only when every file is written.

    Raises
    ------
    UsageError
        If a number is out of range.
    DataError
        If ``root`` is there and is not an empty folder.
    """
    root = Path(root)
    _check(patients, seed, signal, extent, jobs)
    _check_room(root)
    plan = make_plan(patients, extent, seed)
    root.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{root.name}.", suffix=".unfinished", dir=root.parent))
    try:
        _write(unfinished, plan, signal, jobs or available_cores(), progress)
        unfinished.chmod(0o777 & ~_umask())
        _put_in_place(unfinished, root)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return Competition.open(root)


def _check(patients: int, seed: int, signal: float, extent: Extent, jobs: int | None) -> None:
    at_least = {
        "patients": (patients, 1),
        "seed": (seed, 0),
        "signal": (signal, 0),
        "test_patients": (extent.test_patients, 1),
        "max_recordings": (extent.max_recordings, 1),
        "max_seconds": (extent.max_seconds, 50),
        "jobs": (1 if jobs is None else jobs, 1),
    }
    for name, (value, least) in at_least.items():
        if not np.isfinite(value) or value < least:
            raise UsageError(f"{name} must be at least {least}, got {value}")
    people = patients + extent.test_patients
    if people > 20_000:
        raise UsageError(f"{people} patients are more than the 20000 there are ids for")


def _check_room(root: Path) -> None:
    if not root.exists():
        return
    if not root.is_dir():
        raise DataError(
            "a file stands where the folder is to be made", where=root, hint="Choose another path."
        )
    if any(root.iterdir()):
        raise DataError("the folder is not empty", where=root, hint="Choose a new path, or remove it first.")


def _put_in_place(unfinished: Path, root: Path) -> None:
    try:
        unfinished.rename(root)  # replaces an empty folder, refuses any other
    except OSError as error:
        raise DataError(
            f"the folder could not be put in place: {error.strerror}", where=root, hint="Choose a new path."
        ) from error


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _write(
    folder: Path, plan: Plan, signal: float, jobs: int, progress: Callable[[int, int], None] | None
) -> None:
    competition = Competition(folder, SPLITS)
    for split in SPLITS:
        competition.folder(split, "eeg").mkdir()
        competition.folder(split, "spectrogram").mkdir()
    _write_tables(competition, plan)

    def write(stretch: Stretch) -> None:
        _write_stretch(competition, stretch, plan.seed, signal)

    # One thread of linear algebra per job: faster side by side, and sums do not depend on how many there are.
    with threadpool_limits(1):
        for done, _ in enumerate(unordered(write, plan.stretches, jobs=jobs), start=1):
            if progress is not None:
                progress(done, len(plan.stretches))


def _write_stretch(competition: Competition, stretch: Stretch, seed: int, signal: float) -> None:
    rendered = render(stretch, seed=seed, signal=signal)
    for recording in stretch.recordings:
        samples = recording_samples(rendered, stretch, recording.start, recording.length)
        columns = dict(zip(EEG_COLUMNS, samples.T, strict=True))
        _write_parquet(columns, competition.path(stretch.split, "eeg", recording.eeg_id))
    frames = spectrogram_frames(rendered, stretch)
    time_type = np.int64 if stretch.split == "train" else np.int16  # as in the real files
    time = FRAME_SECONDS * np.arange(len(frames)) + FRAME_SECONDS // 2
    columns = {TIME_COLUMN: time.astype(time_type), **dict(zip(SPECTROGRAM_COLUMNS, frames.T, strict=True))}
    _write_parquet(columns, competition.path(stretch.split, "spectrogram", stretch.spectrogram_id))


def _write_parquet(columns: dict[str, np.ndarray], path: Path) -> None:
    table = pa.table({name: pa.array(np.ascontiguousarray(values)) for name, values in columns.items()})
    pq.write_table(table, path, compression="snappy")


def train_table(plan: Plan) -> pd.DataFrame:
    """``train.csv`` of a planned competition, in the order of its ids."""
    rows = [row for stretch in plan.stretches if stretch.split == "train" for row in _train_rows(stretch)]
    columns = [
        *("eeg_id", "eeg_sub_id", "eeg_label_offset_seconds"),
        *("spectrogram_id", "spectrogram_sub_id", "spectrogram_label_offset_seconds"),
        *("label_id", "patient_id", "expert_consensus", *VOTE_COLUMNS),
    ]
    return pd.DataFrame(rows, columns=columns).sort_values(["eeg_id", "eeg_sub_id"])


def _write_tables(competition: Competition, plan: Plan) -> None:
    """``train.csv``, ``test.csv``, the sample submission and the oracle, each in the order of its ids."""
    train_table(plan).to_csv(competition.table_path("train"), index=False)
    test, oracle = [], []
    for stretch in plan.stretches:
        for recording in stretch.recordings:
            if stretch.split == "test":
                test.append((stretch.spectrogram_id, recording.eeg_id, stretch.patient_id))
            for window in recording.windows:
                truth = plan.raters.expected(window.mixture)
                oracle.append((window.label_id, recording.eeg_id, stretch.split, *truth))
    tests = pd.DataFrame(test, columns=["spectrogram_id", "eeg_id", "patient_id"]).sort_values(
        "spectrogram_id"
    )
    tests.to_csv(competition.table_path("test"), index=False)
    submission = tests[["eeg_id"]].assign(**dict.fromkeys(VOTE_COLUMNS, 1 / len(VOTE_COLUMNS)))
    submission.to_csv(competition.root / "sample_submission.csv", index=False)
    truth_table = pd.DataFrame(oracle, columns=["label_id", "eeg_id", "split", *VOTE_COLUMNS])
    truth_table.sort_values("label_id").to_parquet(competition.root / ORACLE, index=False)


def _train_rows(stretch: Stretch) -> list[tuple[object, ...]]:
    rows: list[tuple[object, ...]] = []
    for recording in stretch.recordings:
        for number, window in enumerate(recording.windows):
            in_spectrogram = recording.start + window.offset - stretch.surroundings.before
            rows.append(
                (
                    *(recording.eeg_id, number, float(window.offset)),
                    *(stretch.spectrogram_id, len(rows), float(in_spectrogram)),
                    *(window.label_id, stretch.patient_id, CLASSES[int(np.argmax(window.votes))]),
                    *window.votes.tolist(),
                )
            )
    return rows
