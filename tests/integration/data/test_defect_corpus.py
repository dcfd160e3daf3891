"""Folders that are each spoilt in one way: ``check`` names it, ``prepare`` and ``worker`` refuse alike."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from hms_tune.config.input import InputConfig
from hms_tune.config.study_file import load_study_file
from hms_tune.config.trial import DataConfig
from hms_tune.data.check.folder import check_folder
from hms_tune.data.files.competition import Competition
from hms_tune.data.files.decoding import decode
from hms_tune.data.files.defects import WARNINGS, DefectKind, errors
from hms_tune.data.files.half import Half
from hms_tune.data.files.signal_file import SignalFile
from hms_tune.data.files.tables import read_table
from hms_tune.data.folds import assign_folds
from hms_tune.data.labels import make_labels
from hms_tune.data.schema import EEG_COLUMNS, SPECTROGRAM_COLUMNS, VOTE_COLUMNS
from hms_tune.data.store.prepare import prepare
from hms_tune.errors import DataError, SignalError, StoreError
from hms_tune.export.signals import eeg_windows
from hms_tune.tracking.console import ConsoleObserver
from hms_tune.worker.options import WorkerOptions
from hms_tune.worker.worker import Worker

K = DefectKind
Change = Callable[[Path], None]

EEG, OTHER_EEG, TEST_EEG = "train_eegs/1000.parquet", "train_eegs/1001.parquet", "test_eegs/3000.parquet"
SPECTROGRAM, TEST_SPECTROGRAM = "train_spectrograms/5000.parquet", "test_spectrograms/8000.parquet"
VOTES = ", ".join(VOTE_COLUMNS)


@dataclass(frozen=True)
class Spoilt:
    """A way to spoil a folder, the first defect that must be found, and the kinds that follow from it."""

    change: Change
    kind: DefectKind
    file: str
    what: str
    column: str | None = None
    row: int | None = None
    also: tuple[DefectKind, ...] = ()


def rewrite(name: str, change: Callable[[pa.Table], pa.Table], **options: object) -> Change:
    return lambda root: pq.write_table(change(pq.read_table(root / name)), root / name, **options)


def column(index: int, change: Callable[[np.ndarray], object]) -> Callable[[pa.Table], pa.Table]:
    """Change the values of one column."""

    def apply(table: pa.Table) -> pa.Table:
        name = table.column_names[index]
        return table.set_column(index, name, pa.array(change(table[name].to_numpy().copy())))

    return apply


def columns(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[pa.Table], pa.Table]:
    """Change the values of every column but ``time``."""

    def apply(table: pa.Table) -> pa.Table:
        kept = {name: table[name].to_numpy().copy() for name in table.column_names}
        return pa.table({name: v if name == "time" else change(v) for name, v in kept.items()})

    return apply


def put(value: float, row: int) -> Callable[[np.ndarray], np.ndarray]:
    def apply(values: np.ndarray) -> np.ndarray:
        values[row] = value
        return values

    return apply


def nan_from(row: int) -> Callable[[np.ndarray], np.ndarray]:
    def apply(values: np.ndarray) -> np.ndarray:
        values[row:] = np.nan
        return values

    return apply


def table(name: str, change: Callable[[pd.DataFrame], pd.DataFrame]) -> Change:
    return lambda root: change(pd.read_csv(root / name)).to_csv(root / name, index=False)


def cells(name: str, row: int = 0, **values: object) -> Change:
    """Set cells of a row of a table."""

    def apply(frame: pd.DataFrame) -> pd.DataFrame:
        for column_, value in values.items():
            frame[column_] = frame[column_].astype(object)
            frame.loc[row, column_] = value
        return frame

    return table(name, apply)


def text(name: str, change: Callable[[bytes], bytes]) -> Change:
    return lambda root: (root / name).write_bytes(change((root / name).read_bytes()))


def delete(name: str) -> Change:
    return lambda root: shutil.rmtree(root / name) if (root / name).is_dir() else (root / name).unlink()


def make_folder(name: str) -> Change:
    def apply(root: Path) -> None:
        (root / name).unlink()
        (root / name).mkdir()

    return apply


def flip_a_byte(root: Path) -> None:
    pq.write_table(pq.read_table(root / EEG), root / EEG, write_page_checksum=True)
    content = bytearray((root / EEG).read_bytes())
    content[len(content) // 2] ^= 0x10
    (root / EEG).write_bytes(content)


def submission(change: Callable[[pd.DataFrame], pd.DataFrame]) -> Change:
    """Write a sound sample submission, changed."""

    def apply(root: Path) -> None:
        ids = pd.read_csv(root / "test.csv")["eeg_id"]
        frame = pd.DataFrame({"eeg_id": ids} | dict.fromkeys(VOTE_COLUMNS, 1 / 6))
        change(frame).to_csv(root / "sample_submission.csv", index=False)

    return apply


def swap_halves_of_time(times: np.ndarray) -> np.ndarray:
    times[100:] += 2
    return times


CORPUS = {
    # the folder
    "no train table": Spoilt(
        delete("train.csv"), K.TABLE_MISSING, "train.csv", "the file is missing, though train_eegs is there"
    ),
    "no test table": Spoilt(
        delete("test.csv"), K.TABLE_MISSING, "test.csv", "the file is missing, though test_eegs is there"
    ),
    "no EEG folder": Spoilt(
        delete("train_eegs"), K.FOLDER_MISSING, "train_eegs", "the folder is missing, though train.csv"
    ),
    "no test spectrograms": Spoilt(
        delete("test_spectrograms"),
        K.SPECTROGRAMS_MISSING,
        "test_spectrograms",
        "the folder is missing, though the other half has its spectrograms",
    ),
    "no EEG": Spoilt(
        delete(EEG), K.FILE_MISSING, EEG, "the file is missing, though train.csv names eeg_id 1000"
    ),
    "no test EEG": Spoilt(
        delete(TEST_EEG), K.FILE_MISSING, TEST_EEG, "the file is missing, though test.csv names eeg_id 3000"
    ),
    "no spectrogram": Spoilt(
        delete(SPECTROGRAM),
        K.FILE_MISSING,
        SPECTROGRAM,
        "the file is missing, though train.csv names spectrogram_id 5000",
    ),
    "id without files": Spoilt(
        cells("test.csv", eeg_id=4444),
        K.FILE_MISSING,
        "test_eegs/4444.parquet",
        "the file is missing, though test.csv names eeg_id 4444",
        also=(K.FILE_UNEXPECTED,),
    ),
    "EEG in no table": Spoilt(
        lambda root: shutil.copy(root / EEG, root / "train_eegs/77.parquet"),
        K.FILE_UNEXPECTED,
        "train_eegs/77.parquet",
        "train.csv names no such eeg_id",
    ),
    "stray file": Spoilt(
        lambda root: (root / "test_spectrograms/notes (1).txt").write_text("look at this"),
        K.FILE_UNEXPECTED,
        "test_spectrograms/notes (1).txt",
        "test.csv names no such spectrogram_id",
    ),
    # tables
    "empty table": Spoilt(text("train.csv", lambda _: b""), K.TABLE_EMPTY, "train.csv", "the file is empty"),
    "header alone": Spoilt(
        text("test.csv", lambda content: content.split(b"\n")[0] + b"\n"),
        K.TABLE_EMPTY,
        "test.csv",
        "the table has no rows",
    ),
    "Latin-1 table": Spoilt(
        text("train.csv", lambda content: content.replace(b"LPD", b"L\xe9D", 1)),
        K.TABLE_UNREADABLE,
        "train.csv",
        "not a CSV table: 'utf-8' codec can't decode byte 0xe9",
    ),
    "binary table": Spoilt(
        text("test.csv", lambda _: b"PK\x03\x04\xff\xfe\x00\x00" * 40),
        K.TABLE_UNREADABLE,
        "test.csv",
        "not a CSV table",
    ),
    "semicolons": Spoilt(
        text("train.csv", lambda content: content.replace(b",", b";")),
        K.TABLE_UNREADABLE,
        "train.csv",
        "not a CSV table: cells are separated by semicolons, not commas",
    ),
    "a cell too many": Spoilt(
        text("test.csv", lambda content: content.replace(b"\n8001", b"\n8001,9", 1)),
        K.TABLE_UNREADABLE,
        "test.csv",
        "not a CSV table: Error tokenizing data. C error: Expected 3 fields in line 3, saw 4",
    ),
    "a cell too many in every line": Spoilt(
        text("test.csv", lambda content: content.replace(b"\n8", b"\n1,8")),
        K.TABLE_UNREADABLE,
        "test.csv",
        "not a CSV table: Length of header or names does not match length of data",
    ),
    "table cut short": Spoilt(
        text("train.csv", lambda content: content[: content.rindex(b",")]),
        K.CELL_INVALID,
        "train.csv",
        "line 13: the cell is empty",
        "other_vote",
        13,
    ),
    "missing column": Spoilt(
        table("train.csv", lambda frame: frame.drop(columns="lpd_vote")),
        K.COLUMN_MISSING,
        "train.csv",
        "the column is missing",
        "lpd_vote",
    ),
    "repeated column": Spoilt(
        text("train.csv", lambda content: content.replace(b"gpd_vote", b"lpd_vote", 1)),
        K.COLUMN_REPEATED,
        "train.csv",
        "the column stands twice",
        "lpd_vote",
    ),
    "unknown column": Spoilt(
        table("test.csv", lambda frame: frame.assign(age=77)),
        K.COLUMN_EXTRA,
        "test.csv",
        "the column is not one of the competition's",
        "age",
    ),
    "columns in another order": Spoilt(
        table("test.csv", lambda frame: frame[["eeg_id", "spectrogram_id", "patient_id"]]),
        K.COLUMN_ORDER,
        "test.csv",
        "the column stands where spectrogram_id should",
        "eeg_id",
    ),
    "a word for a number": Spoilt(
        cells("test.csv", patient_id="Bob"),
        K.CELL_INVALID,
        "test.csv",
        "line 2: 'Bob' is not a whole number",
        "patient_id",
        2,
    ),
    "a fraction of a vote": Spoilt(
        cells("train.csv", 2, grda_vote=0.5),
        K.CELL_INVALID,
        "train.csv",
        "line 4: '0.5' is not a whole number",
        "grda_vote",
        4,
    ),
    "an infinite offset": Spoilt(
        cells("train.csv", 1, eeg_label_offset_seconds="inf"),
        K.CELL_INVALID,
        "train.csv",
        "line 3: 'inf' is not a finite number",
        "eeg_label_offset_seconds",
        3,
    ),
    "an unknown class": Spoilt(
        cells("train.csv", 3, expert_consensus="seizure"),
        K.CELL_INVALID,
        "train.csv",
        "line 5: 'seizure' is not one of Seizure, LPD, GPD, LRDA, GRDA, Other",
        "expert_consensus",
        5,
    ),
    "an empty cell": Spoilt(
        cells("train.csv", patient_id=None),
        K.CELL_INVALID,
        "train.csv",
        "line 2: the cell is empty",
        "patient_id",
        2,
    ),
    "the same row twice": Spoilt(
        cells("train.csv", 1, eeg_sub_id=0),
        K.KEY_REPEATED,
        "train.csv",
        "line 3: eeg_id 1000, eeg_sub_id 0 stands in an earlier line too",
        "eeg_id + eeg_sub_id",
        3,
    ),
    "the same label twice": Spoilt(
        cells("train.csv", 3, label_id=900_000),
        K.KEY_REPEATED,
        "train.csv",
        "line 5: label_id 900000 stands in an earlier line too",
        "label_id",
        5,
    ),
    "the same test EEG twice": Spoilt(
        cells("test.csv", 1, eeg_id=3000, patient_id=700),
        K.KEY_REPEATED,
        "test.csv",
        "line 3: eeg_id 3000 stands in an earlier line too",
        "eeg_id",
        3,
    ),
    "zero votes": Spoilt(
        cells("train.csv", seizure_vote=0, lpd_vote=0),
        K.VOTES_ZERO,
        "train.csv",
        "line 2: eeg_id 1000, eeg_sub_id 0 has zero votes",
        VOTES,
        2,
    ),
    "a negative vote": Spoilt(
        cells("train.csv", gpd_vote=-3), K.VOTE_NEGATIVE, "train.csv", "line 2: -3 is negative", "gpd_vote", 2
    ),
    "a negative offset": Spoilt(
        cells("train.csv", 1, spectrogram_label_offset_seconds=-2.0),
        K.OFFSET_NEGATIVE,
        "train.csv",
        "line 3: -2.0 is negative",
        "spectrogram_label_offset_seconds",
        3,
    ),
    "an EEG of two patients": Spoilt(
        cells("train.csv", 1, patient_id=99, spectrogram_id=5001),
        K.EEG_OF_SEVERAL_PATIENTS,
        "train.csv",
        "eeg_id 1000 belongs to 2 patients",
        "patient_id",
        2,
        also=(K.SPECTROGRAM_OF_SEVERAL_PATIENTS,),
    ),
    "a spectrogram of all patients": Spoilt(
        table("train.csv", lambda frame: frame.assign(spectrogram_id=5000)),
        K.SPECTROGRAM_OF_SEVERAL_PATIENTS,
        "train.csv",
        "spectrogram_id 5000 belongs to 6 patients",
        "patient_id",
        2,
        also=(K.FILE_UNEXPECTED,),
    ),
    "a consensus nobody voted for": Spoilt(
        cells("train.csv", 1, expert_consensus="GRDA"),
        K.CONSENSUS_DISAGREES,
        "train.csv",
        "line 3: GRDA has 0 votes, LPD has 12",
        "expert_consensus",
        3,
    ),
    "a patient in both halves": Spoilt(
        cells("test.csv", 1, patient_id=10),
        K.PATIENT_IN_BOTH_SPLITS,
        "test.csv",
        "line 3: patient_id 10 stands in train.csv too",
        "patient_id",
        3,
    ),
    "an EEG in both halves": Spoilt(
        lambda root: (
            cells("test.csv", eeg_id=1000)(root),
            (root / TEST_EEG).rename(root / "test_eegs/1000.parquet"),
        ),
        K.EEG_IN_BOTH_SPLITS,
        "test.csv",
        "line 2: eeg_id 1000 stands in train.csv too",
        "eeg_id",
        2,
    ),
    # the sample submission
    "submission that is no table": Spoilt(
        lambda root: (root / "sample_submission.csv").write_bytes(b"\xff\xfe\x00\x01,\x80"),
        K.SUBMISSION_UNREADABLE,
        "sample_submission.csv",
        "not a CSV table",
    ),
    "submission without a class": Spoilt(
        submission(lambda frame: frame.drop(columns="lrda_vote")),
        K.SUBMISSION_COLUMNS,
        "sample_submission.csv",
        "the column is missing",
        "lrda_vote",
    ),
    "submission for another EEG": Spoilt(
        submission(lambda frame: frame.assign(eeg_id=[3000, 3009])),
        K.SUBMISSION_IDS,
        "sample_submission.csv",
        "line 3: eeg_id 3009 is not in test.csv",
        "eeg_id",
        3,
        also=(K.SUBMISSION_IDS,),
    ),
    "submission of votes": Spoilt(
        submission(lambda frame: frame.assign(other_vote=1.0)),
        K.SUBMISSION_VALUES,
        "sample_submission.csv",
        "line 2: the six values are not probabilities that sum to 1 (2 such lines)",
        row=2,
    ),
    # signal files: what their footers tell
    "empty file": Spoilt(text(EEG, lambda _: b""), K.FILE_EMPTY, EEG, "the file is empty, 0 bytes"),
    "file cut short": Spoilt(
        text(EEG, lambda content: content[:5_000]), K.FILE_UNREADABLE, EEG, "not a readable parquet file"
    ),
    "file without its end": Spoilt(
        text(SPECTROGRAM, lambda content: content[:-1]),
        K.FILE_UNREADABLE,
        SPECTROGRAM,
        "not a readable parquet file",
    ),
    "a page for a file": Spoilt(
        text(TEST_EEG, lambda _: b"<html>404</html>"),
        K.FILE_UNREADABLE,
        TEST_EEG,
        "not a readable parquet file",
    ),
    "folder for a file": Spoilt(
        make_folder(EEG), K.FILE_UNREADABLE, EEG, "not a readable parquet file: it is a folder"
    ),
    "zeros in the middle": Spoilt(
        text(EEG, lambda content: content[:200_000] + bytes(100_000) + content[300_000:]),
        K.FILE_UNREADABLE,
        EEG,
        "not a readable parquet file",
    ),
    "a flipped bit": Spoilt(flip_a_byte, K.FILE_UNREADABLE, EEG, "not a readable parquet file"),
    "no rows": Spoilt(
        rewrite(EEG, lambda table_: table_.slice(0, 0)), K.ROWS_MISSING, EEG, "the file has no rows"
    ),
    "missing channels": Spoilt(
        rewrite(EEG, lambda table_: table_.drop_columns(["Cz", "EKG"])),
        K.COLUMN_MISSING,
        EEG,
        "the column is missing, and 1 more",
        "Cz",
    ),
    "missing time": Spoilt(
        rewrite(SPECTROGRAM, lambda table_: table_.drop_columns(["time"])),
        K.COLUMN_MISSING,
        SPECTROGRAM,
        "the column is missing",
        "time",
    ),
    "renamed region": Spoilt(
        rewrite(
            SPECTROGRAM,
            lambda table_: table_.rename_columns([n.replace("RL", "XX") for n in table_.column_names]),
        ),
        K.COLUMN_MISSING,
        SPECTROGRAM,
        "the column is missing, and 99 more",
        "RL_0.59",
        also=(K.COLUMN_EXTRA,),
    ),
    "channel twice": Spoilt(
        rewrite(EEG, lambda table_: table_.append_column("Fp1", table_["Fp1"])),
        K.COLUMN_REPEATED,
        EEG,
        "the column stands twice",
        "Fp1",
    ),
    "unknown channel": Spoilt(
        rewrite(EEG, lambda table_: table_.append_column("A1", table_["Fp1"])),
        K.COLUMN_EXTRA,
        EEG,
        "the column is not one of the competition's",
        "A1",
    ),
    "channels in another order": Spoilt(
        rewrite(EEG, lambda table_: table_.select([*EEG_COLUMNS[::-1]])),
        K.COLUMN_ORDER,
        EEG,
        "the column stands where Fp1 should",
        "EKG",
    ),
    "text for a signal": Spoilt(
        rewrite(EEG, lambda table_: table_.set_column(0, "Fp1", table_["Fp1"].cast(pa.string()))),
        K.COLUMN_TYPE,
        EEG,
        "the type is string, not float32",
        "Fp1",
    ),
    "doubles": Spoilt(
        rewrite(TEST_EEG, lambda t: pa.table({n: t[n].cast(pa.float64()) for n in t.column_names})),
        K.COLUMN_PRECISION,
        TEST_EEG,
        "the type is double, not float32 (so in 20 columns)",
        "Fp1",
    ),
    "another frequency's decimals": Spoilt(
        rewrite(
            SPECTROGRAM,
            lambda t: t.rename_columns([n.replace("LL_0.59", "LL_0.586") for n in t.column_names]),
        ),
        K.COLUMN_SYNONYM,
        SPECTROGRAM,
        "columns are taken for the competition's: LL_0.586 for LL_0.59",
        "LL_0.586",
    ),
    "no EKG": Spoilt(
        rewrite(EEG, lambda table_: table_.drop_columns(["EKG"])),
        K.CHANNEL_ABSENT,
        EEG,
        "the column is missing",
        "EKG",
        also=(K.CHANNEL_NAN,),
    ),
    "sampled at 256 Hz": Spoilt(
        rewrite(EEG, lambda t: t.take(np.linspace(0, t.num_rows - 1, 60 * 256).astype(np.int64))),
        K.SAMPLING_RATE,
        EEG,
        "the EEG has 15360 rows, and its labels end at 60 s: is it sampled at 256 Hz?",
    ),
    "EEG too short": Spoilt(
        rewrite(EEG, lambda table_: table_.slice(0, 9_999)),
        K.EEG_TOO_SHORT,
        EEG,
        "the EEG has 9999 rows (49.995 s), fewer than 10000 (50 s)",
    ),
    "test EEG at 256 Hz": Spoilt(
        rewrite(TEST_EEG, lambda t: pa.concat_tables([t, t.slice(0, 2_800)])),
        K.TEST_LENGTH,
        TEST_EEG,
        "the test EEG has 12800 rows, not 10000: is it sampled at 256 Hz?",
    ),
    "window beyond the EEG": Spoilt(
        cells("train.csv", eeg_label_offset_seconds=10.5),
        K.WINDOW_BEYOND_EEG,
        EEG,
        "a labelled window ends at 60.5 s, but the EEG ends at 60 s",
    ),
    "label beyond the spectrogram": Spoilt(
        cells("train.csv", spectrogram_label_offset_seconds=620),
        K.WINDOW_BEYOND_SPECTROGRAM,
        SPECTROGRAM,
        "a label starts at 620 s, but the spectrogram ends at 620 s",
        "time",
    ),
    "spectrogram window cut": Spoilt(
        cells("train.csv", spectrogram_label_offset_seconds=30),
        K.WINDOW_CUT,
        SPECTROGRAM,
        "a labelled window ends at 630 s, but the spectrogram ends at 620 s",
        "time",
    ),
    "test spectrogram too short": Spoilt(
        rewrite(TEST_SPECTROGRAM, lambda table_: table_.slice(0, 290)),
        K.TEST_LENGTH,
        TEST_SPECTROGRAM,
        "the test spectrogram has 290 frames, not 300",
    ),
    # signal files: what they hold
    "infinite sample": Spoilt(
        rewrite(EEG, column(1, put(np.inf, 77))), K.VALUE_INFINITE, EEG, "row 77 is infinite", "F3", 77
    ),
    "infinite power": Spoilt(
        rewrite(TEST_SPECTROGRAM, column(5, put(-np.inf, 9))),
        K.VALUE_INFINITE,
        TEST_SPECTROGRAM,
        "row 9 is infinite",
        SPECTROGRAM_COLUMNS[4],
        9,
        also=(K.POWER_NEGATIVE,),
    ),
    "power in decibels": Spoilt(
        rewrite(SPECTROGRAM, columns(lambda power: 10 * np.log10(power))),
        K.POWER_NEGATIVE,
        SPECTROGRAM,
        "row ",
        SPECTROGRAM_COLUMNS[0],
    ),
    "window of NaN": Spoilt(
        rewrite(EEG, columns(nan_from(1_000))),
        K.LABELLED_WINDOW_OF_NAN,
        EEG,
        "the window labelled at 10 s holds nothing but NaN",
        row=2_000,
    ),
    "spectrogram of NaN": Spoilt(
        rewrite(TEST_SPECTROGRAM, columns(nan_from(0))),
        K.WINDOW_OF_NAN,
        TEST_SPECTROGRAM,
        "the window labelled at 0 s holds nothing but NaN",
        row=0,
    ),
    "channel of NaN": Spoilt(
        rewrite(EEG, column(8, nan_from(4_000))),
        K.CHANNEL_NAN,
        EEG,
        "67% of the channel is NaN",
        "Fz",
    ),
    "flat channels": Spoilt(
        rewrite(EEG, lambda t: column(6, lambda v: 0 * v)(column(3, lambda v: 0 * v + 7)(t))),
        K.CHANNEL_FLAT,
        EEG,
        "the channel is flat: it spans 0 µV (and 1 more: T5)",
        "P3",
    ),
    "volts for microvolts": Spoilt(
        rewrite(OTHER_EEG, columns(lambda volts: volts / np.float32(1e6))),
        K.CHANNEL_FLAT,
        OTHER_EEG,
        "the channel is flat: it spans 9",
        "Fp1",
    ),
    "channel of millivolts": Spoilt(
        rewrite(EEG, column(17, lambda values: 40 * values)),
        K.CHANNEL_MILLIVOLT,
        EEG,
        "the channel spans ",
        "T6",
    ),
    "frame missing": Spoilt(
        rewrite(SPECTROGRAM, column(0, swap_halves_of_time)),
        K.TIME_STEP,
        SPECTROGRAM,
        "row 100 is at 203 s, not 201 s (210 such rows)",
        "time",
        100,
    ),
    "time as text": Spoilt(
        rewrite(SPECTROGRAM, lambda t: t.set_column(0, "time", t["time"].cast(pa.string()))),
        K.TIME_STEP,
        SPECTROGRAM,
        "the type is string, not a number of seconds",
        "time",
    ),
}


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory, competition_writer: Callable[..., Path]) -> Path:
    """A sound folder, to be copied and spoilt."""
    folder = tmp_path_factory.mktemp("sound") / "hms"
    return competition_writer(folder, patients=6, recordings_per_patient=1, nan_gap=False)


@pytest.fixture
def root(sound: Path, tmp_path: Path) -> Path:
    """A copy of the sound folder."""
    return shutil.copytree(sound, tmp_path / "hms")


def test_a_sound_folder_has_no_defect(sound: Path) -> None:
    assert check_folder(sound, jobs=1).defects == []


def test_the_corpus_has_a_folder_for_every_kind_of_defect() -> None:
    # of permissions see the next test: who is root has all of them; of votes as shares, test_statement.py
    assert {spoilt.kind for spoilt in CORPUS.values()} == set(DefectKind) - {
        K.FOLDER_UNREADABLE,
        K.PATIENTS_TOO_FEW,
        K.PATIENTS_FEW,
        K.TEST_WINDOW_OF_NAN,
        K.STATEMENT_INVALID,
        K.VOTES_SHARES,
        K.VOTES_UNWEIGHTED,
    }
    assert len(CORPUS) >= 40


@pytest.mark.parametrize("closed", [".", "train_eegs", "test_spectrograms"])
def test_a_folder_without_permission_is_a_defect(
    root: Path, monkeypatch: pytest.MonkeyPatch, closed: str
) -> None:
    monkeypatch.setattr(os, "access", lambda path, _: Path(path) != root / closed)
    report = check_folder(root)
    assert [(d.kind, d.file) for d in report.defects] == [(K.FOLDER_UNREADABLE, str(root / closed))]
    assert report.defects[0].what == "the folder cannot be read"
    if closed == "test_spectrograms":
        assert set(prepare(root, jobs=1).recordings["split"]) == {"train"}
        return
    with pytest.raises(DataError) as refusal:
        prepare(root)
    assert refusal.value.what == report.defects[0].what


@pytest.mark.parametrize("name", CORPUS)
def test_corrupt_short_empty_renamed_or_wrong_typed_parquet_or_csv_is_named_by_check_and_prepare_alike(
    root: Path, name: str
) -> None:
    spoilt = CORPUS[name]
    spoilt.change(root)
    before = sorted(root.parent.rglob("*"))
    report = check_folder(root, jobs=1)
    first = report.defects[0]
    assert (first.kind, first.file, first.column) == (spoilt.kind, str(root / spoilt.file), spoilt.column)
    assert first.what.startswith(spoilt.what)
    assert first.hint.endswith(".")
    assert spoilt.row is None or first.row == spoilt.row
    assert {defect.kind for defect in report.defects[1:]} == set(spoilt.also)
    assert "\n" not in str(first)
    if spoilt.kind in WARNINGS:
        assert report.errors == 0
        assert prepare(root, jobs=1).root == root
        return
    assert errors(report.defects)[0] == first
    if spoilt.file.startswith("test") and spoilt.kind in IN_THE_SIGNAL:
        prepare(root, jobs=1)
        return
    if spoilt.file.startswith("test"):
        assert set(prepare(root, jobs=1).recordings["split"]) == {"train"}  # only prediction needs the rest
        return
    with pytest.raises(DataError) as refusal:
        prepare(root, jobs=1)
    assert (refusal.value.what, refusal.value.where) == (first.what, first.where)
    assert sorted(root.parent.rglob("*")) == before


IN_THE_SIGNAL = {K.VALUE_INFINITE, K.POWER_NEGATIVE, K.TIME_STEP, K.WINDOW_OF_NAN}
IN_THE_SIGNAL |= {K.LABELLED_WINDOW_OF_NAN}
IN_THE_SIGNAL |= {K.CHANNEL_NAN, K.CHANNEL_FLAT, K.CHANNEL_MILLIVOLT}


@pytest.mark.parametrize("name", ["no EEG", "power in decibels", "window of NaN", "a flipped bit"])
def test_a_quick_check_sees_what_tables_and_footers_tell(root: Path, name: str) -> None:
    CORPUS[name].change(root)
    kinds = {defect.kind for defect in check_folder(root, quick=True, jobs=1).defects}
    in_the_signal = CORPUS[name].kind in IN_THE_SIGNAL or name == "a flipped bit"
    assert kinds == (set() if in_the_signal else {CORPUS[name].kind})


@pytest.mark.parametrize("name", ["no EEG", "zero votes", "file cut short", "infinite sample"])
def test_a_worker_refuses_a_spoilt_folder_in_the_words_of_check(
    root: Path, database_url: str, study_name: str, tmp_path: Path, name: str
) -> None:
    CORPUS[name].change(root)
    first = check_folder(root, jobs=1).defects[0]
    study = tmp_path / f"{study_name}.yaml"
    study.write_text(f"study: {study_name}\nmodel: {{pretrained: false}}\nbudget: {{trials: 1}}\n")
    before = sorted(root.rglob("*"))
    options = WorkerOptions(
        study_file=load_study_file(str(study)),
        storage=database_url,
        home=tmp_path,
        data_root=root,
        artifacts=tmp_path / "artifacts",
        device="cpu",
    )
    with pytest.raises(DataError) as refusal:
        Worker(options, ConsoleObserver(Console(stderr=True))).run()
    assert (refusal.value.what, refusal.value.where) == (first.what, first.where)
    assert sorted(root.rglob("*")) == before


def test_a_test_half_with_repeated_ids_keeps_nobody_from_training(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A variant of the competition has one row of test.csv for each label."""
    table("test.csv", lambda frame: pd.concat([frame, frame]))(root)
    store = prepare(root, jobs=1)
    assert set(store.recordings["split"]) == {"train"}
    assert caplog.messages[0].startswith(
        "the test half is left out, which training does without and `hms-tune predict` will refuse: "
    )
    assert "stands in an earlier line too" in caplog.messages[0]
    with pytest.raises(DataError, match="stands in an earlier line too"):
        Competition.open(root, splits=("test",)).table("test")


def test_a_test_eeg_silent_on_the_scalp_is_an_error_for_check_and_predict_and_keeps_nobody_from_training(
    root: Path,
) -> None:
    def silent_but_for_ekg(whole: pa.Table) -> pa.Table:
        nan = pa.array(np.full(whole.num_rows, np.nan, np.float32))
        return pa.table({name: whole[name] if name == "EKG" else nan for name in whole.column_names})

    rewrite(TEST_EEG, silent_but_for_ekg)(root)
    (error,) = errors(check_folder(root, jobs=1).defects)
    assert (error.kind, error.file) == (K.TEST_WINDOW_OF_NAN, str(root / TEST_EEG))
    half = Half.open(Competition.open(root, splits=("test",)), "test", ["eeg"])
    with pytest.raises(DataError, match=r"3000\.parquet: the window holds nothing but NaN on the scalp"):
        list(half.windows(ahead=1))
    with pytest.raises(SignalError, match="EEG holds no value"):
        eeg_windows(root / TEST_EEG, InputConfig())
    assert prepare(root, jobs=1).root == root


UNUSABLE = {
    "infinite sample": (TEST_EEG, column(7, put(np.inf, 55)), K.VALUE_INFINITE, "row 55 is infinite"),
    "infinite power": (TEST_SPECTROGRAM, column(5, put(np.inf, 9)), K.VALUE_INFINITE, "row 9 is infinite"),
    "decibels": (TEST_SPECTROGRAM, columns(lambda v: v - 99), K.POWER_NEGATIVE, "row 0 is a negative power"),
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_a_test_file_with_values_that_cannot_be_is_refused_by_predict_and_keeps_nobody_from_training(
    root: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    file, change, kind, what = UNUSABLE[name]
    rewrite(file, change)(root)
    (error,) = errors(check_folder(root, jobs=1).defects)
    assert (error.kind, error.file) == (kind, str(root / file))
    store = prepare(root, jobs=1)
    (warning,) = [each.getMessage() for each in caplog.records if each.levelname == "WARNING"]
    assert "training does without and `hms-tune predict` will refuse: 1; " in warning
    assert f"{file}, column" in warning
    assert what in warning
    signal = "eeg" if file == TEST_EEG else "spectrogram"
    index = store.recordings if signal == "eeg" else store.spectrograms
    spoilt = index.loc[int(Path(file).stem)]
    values = getattr(store, signal)
    slices = [values[row.start : row.start + row.length] for row in index.itertuples()]
    assert [bool(np.isnan(each).all()) for each in slices] == [row == spoilt.name for row in index.index]
    half = Half.open(Competition.open(root, splits=("test",)), "test", [signal])
    with pytest.raises(DataError, match=what) as refusal:
        list(half.windows(ahead=1))
    assert str(root / file) in str(refusal.value)


def test_a_defect_of_both_halves_is_refused_as_one_of_the_train_half(root: Path) -> None:
    rewrite(EEG, column(7, put(np.inf, 55)))(root)
    rewrite(TEST_EEG, column(7, put(np.inf, 55)))(root)
    with pytest.raises(DataError, match=r"train_eegs/1000\.parquet.*row 55 is infinite"):
        prepare(root, jobs=1)


def test_patients_that_no_study_can_split_are_a_defect(
    tmp_path: Path, competition_writer: Callable[..., Path]
) -> None:
    root = competition_writer(tmp_path / "hms", patients=1)
    (defect,) = check_folder(root, jobs=1).defects
    assert (defect.kind, defect.column, defect.severity) == (K.PATIENTS_TOO_FEW, "patient_id", "error")
    assert defect.what == "1 patient cannot fill 2 folds"


@pytest.mark.parametrize("patients", [2, 5, 6])
def test_patients_too_few_for_the_default_settings_are_a_warning(
    tmp_path: Path, competition_writer: Callable[..., Path], patients: int
) -> None:
    root = competition_writer(tmp_path / "hms", patients=patients, recordings_per_patient=1, nan_gap=False)
    report = check_folder(root, quick=True, jobs=1)
    assert report.errors == 0
    labels = make_labels(read_table(root / "train.csv", "train")[0])
    if patients == 6:
        assert report.defects == []
        assign_folds(labels, DataConfig())
        return
    (defect,) = report.defects
    assert (defect.kind, defect.column, defect.severity) == (K.PATIENTS_FEW, "patient_id", "warning")
    assert "takes 6 patients or more" in defect.hint
    with pytest.raises(DataError) as refusal:
        assign_folds(labels, DataConfig())
    assert defect.what == refusal.value.what


OTHER_NAMES = {"T3": "T7", "T4": "T8", "T5": "P7", "T6": "P8", "Fp1": "FP1", "EKG": "ECG"}


def test_a_recording_in_other_names_and_whole_numbers_is_read_and_said(root: Path) -> None:
    whole = pq.read_table(root / EEG)
    numbers = {n: np.nan_to_num(whole[n].to_numpy()).round().astype(np.int16) for n in whole.column_names}
    pq.write_table(pa.table({n: pa.array(v.astype(np.float32)) for n, v in numbers.items()}), root / EEG)
    usual = decode(signal_file(root, EEG))[0]
    renamed = {OTHER_NAMES.get(n, n): pa.array(v, pa.int16()) for n, v in numbers.items()}
    pq.write_table(pa.table(renamed), root / EEG)
    defects = check_folder(root, jobs=1).defects
    assert [(d.kind, d.severity) for d in defects] == [
        (K.COLUMN_SYNONYM, "warning"),
        (K.COLUMN_PRECISION, "warning"),
    ]
    assert "FP1 for Fp1, T7 for T3, P7 for T5, T8 for T4 and 2 more" in defects[0].what
    assert np.array_equal(decode(signal_file(root, EEG))[0], usual)
    prepare(root, jobs=1)


def signal_file(root: Path, name: str) -> SignalFile:
    return SignalFile("eeg", "train", 1000, root / name, (0.0,))


def test_a_folder_whose_name_is_not_utf8_is_read(sound: Path, tmp_path: Path) -> None:
    root = shutil.copytree(sound, tmp_path / os.fsdecode(b"M\xfcnster"))
    assert check_folder(root, jobs=1).defects == []
    assert len(prepare(root, store=tmp_path / "store", jobs=1).recordings)
    with pytest.raises(StoreError, match=r"M\\udcfcnster.*: the name of the folder is not UTF-8"):
        prepare(root, jobs=1)
