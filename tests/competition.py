"""A writer of tiny competition folders for tests: noise in the right shape, told apart by its values."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from hms_tune.data.schema import CLASSES, EEG_COLUMNS, SPECTROGRAM_COLUMNS, VOTE_COLUMNS


def write_competition(
    root: Path,
    *,
    patients: int = 6,
    recordings_per_patient: int = 2,
    seconds: int = 60,
    seed: int = 0,
    windows_per_recording: int = 2,
    test_recordings: int = 2,
    spectrograms: bool = True,
    splits: Sequence[str] = ("train", "test"),
    nan_gap: bool = True,
) -> Path:
    """Write a competition folder and return it.

    EEGs are noise of 30 µV on offsets of up to 2 mV; with ``nan_gap`` 50 rows of each are NaN everywhere.
    Train spectrograms last 20 s longer than the labelled ten minutes; those of test have 300 frames. The
    votes of a recording change in its last window. ``eeg_id`` counts from 1000, ``spectrogram_id`` from 5000.
    """
    rng = np.random.default_rng(seed)
    root.mkdir(parents=True, exist_ok=True)
    if "train" in splits:
        (root / "train_eegs").mkdir()
        rows = []
        for number in range(patients * recordings_per_patient):
            eeg_id, spectrogram_id = 1000 + number, 5000 + number
            _write_eeg(root / f"train_eegs/{eeg_id}.parquet", seconds * 200, rng, nan_gap)
            if spectrograms:
                _write_spectrogram(root / f"train_spectrograms/{spectrogram_id}.parquet", 310, np.int64, rng)
            for sub_id in range(windows_per_recording):
                offset = sub_id * max(0, seconds - 50) / max(1, windows_per_recording - 1)
                votes = np.zeros(6, dtype=np.int64)
                votes[number % 6] = 3
                votes[(number + 1) % 6] = 12 if sub_id == windows_per_recording - 1 else 1
                rows.append(
                    {
                        "eeg_id": eeg_id,
                        "eeg_sub_id": sub_id,
                        "eeg_label_offset_seconds": float(offset),
                        "spectrogram_id": spectrogram_id,
                        "spectrogram_sub_id": sub_id,
                        "spectrogram_label_offset_seconds": float(2 * (int(offset) // 2)),
                        "label_id": 900_000 + len(rows),
                        "patient_id": 10 + number // recordings_per_patient,
                        "expert_consensus": CLASSES[int(votes.argmax())],
                        **dict(zip(VOTE_COLUMNS, votes.tolist(), strict=True)),
                    }
                )
        pd.DataFrame(rows).to_csv(root / "train.csv", index=False)
    if "test" in splits:
        (root / "test_eegs").mkdir()
        table = pd.DataFrame(
            {
                "spectrogram_id": 8000 + np.arange(test_recordings),
                "eeg_id": 3000 + np.arange(test_recordings),
                "patient_id": 700 + np.arange(test_recordings),
            }
        )
        for row in table.itertuples():
            _write_eeg(root / f"test_eegs/{row.eeg_id}.parquet", 10_000, rng, nan_gap)
            if spectrograms:
                path = root / f"test_spectrograms/{row.spectrogram_id}.parquet"
                _write_spectrogram(path, 300, np.int16, rng)
        table.to_csv(root / "test.csv", index=False)
    return root


def _write_eeg(path: Path, n_times: int, rng: np.random.Generator, nan_gap: bool) -> None:
    offset = rng.uniform(-2000, 2000, len(EEG_COLUMNS))
    values = (rng.normal(0, 30, (n_times, len(EEG_COLUMNS))) + offset).astype(np.float32)
    if nan_gap:
        values[2000:2050] = np.nan
    pq.write_table(pa.table(dict(zip(EEG_COLUMNS, values.T.copy(), strict=True))), path)


def _write_spectrogram(path: Path, n_frames: int, time_type: type, rng: np.random.Generator) -> None:
    path.parent.mkdir(exist_ok=True)
    power = rng.lognormal(0, 2, (n_frames, len(SPECTROGRAM_COLUMNS))).astype(np.float32)
    power[20:24] = np.nan
    time = (1 + 2 * np.arange(n_frames)).astype(time_type)
    pq.write_table(
        pa.table({"time": time} | dict(zip(SPECTROGRAM_COLUMNS, power.T.copy(), strict=True))), path
    )
