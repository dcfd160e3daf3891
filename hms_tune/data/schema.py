"""What the tables and signal files of a competition folder hold.

Source: the data page of the Kaggle competition "HMS - Harmful Brain Activity Classification".
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from typing import Literal

from hms_tune.signals import montage

Split = Literal["train", "test"]
Kind = Literal["eeg", "spectrogram"]

SPLITS: tuple[Split, ...] = ("train", "test")
KINDS: tuple[Kind, ...] = ("eeg", "spectrogram")

CLASSES = ("Seizure", "LPD", "GPD", "LRDA", "GRDA", "Other")
"""The six patterns, in the order of every vote, target and probability array."""

VOTE_COLUMNS = ("seizure_vote", "lpd_vote", "gpd_vote", "lrda_vote", "grda_vote", "other_vote")
"""Columns of ``train.csv`` and of a submission, in the order of :data:`CLASSES`."""

SFREQ = int(montage.SFREQ)
"""Sampling rate of every EEG, Hz."""

WINDOW_SECONDS = 50
WINDOW_SAMPLES = WINDOW_SECONDS * SFREQ
"""Samples of a labelled EEG window; no recording may be shorter."""

FRAME_SECONDS = 2
"""Step between spectrogram frames, seconds."""

WINDOW_FRAMES = 300
"""Frames of a labelled spectrogram window, 10 minutes."""

EEG_COLUMNS = montage.ELECTRODES
"""Channels of an EEG file, µV, referential."""

FREQUENCIES = tuple(bin_ * SFREQ / 1024 for bin_ in range(3, 103))
"""Centre of each of the 100 spectrogram rows of a region, Hz: bins 3–102 of a 1024-point FFT at 200 Hz."""


def _column(region: str, hertz: float) -> str:
    # two decimals, halves up, no trailing zeros: 3.125 Hz is LL_3.13 and 4.1016 Hz is LL_4.1
    rounded = Decimal(hertz).quantize(Decimal("0.01"), ROUND_HALF_UP)
    return f"{region}_{float(rounded):g}"


SPECTROGRAM_COLUMNS = tuple(_column(region, hertz) for region in montage.REGIONS for hertz in FREQUENCIES)
"""Power columns of a spectrogram file, µV²/Hz, float32; a ``time`` column in seconds stands before them."""

TIME_COLUMN = "time"

ARRAYS: dict[Kind, tuple[str, int]] = {
    "eeg": ("eeg.f16", len(EEG_COLUMNS)),
    "spectrogram": ("spectrogram.f16", len(SPECTROGRAM_COLUMNS)),
}
"""File name and number of columns of the array of each kind in a store."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table: its name, and what its cells must be."""

    name: str
    kind: Literal["integer", "number", "class"]


TRAIN_COLUMNS = (
    Column("eeg_id", "integer"),
    Column("eeg_sub_id", "integer"),
    Column("eeg_label_offset_seconds", "number"),
    Column("spectrogram_id", "integer"),
    Column("spectrogram_sub_id", "integer"),
    Column("spectrogram_label_offset_seconds", "number"),
    Column("label_id", "integer"),
    Column("patient_id", "integer"),
    Column("expert_consensus", "class"),
    *(Column(name, "integer") for name in VOTE_COLUMNS),
)
"""``train.csv``, in file order."""

TEST_COLUMNS = (
    Column("spectrogram_id", "integer"),
    Column("eeg_id", "integer"),
    Column("patient_id", "integer"),
)
"""``test.csv``, in file order."""

TABLE_COLUMNS: dict[Split, tuple[Column, ...]] = {"train": TRAIN_COLUMNS, "test": TEST_COLUMNS}
"""The table of each split."""


def window_start(offset_seconds: float) -> int:
    """First row of the EEG window labelled at an offset, 200 rows to the second."""
    return round(offset_seconds * SFREQ)
