"""A synthetic competition on disk has the real one's layout, and is the same whoever makes it."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from hms_tune.data.files.competition import Competition
from hms_tune.data.labels import make_labels
from hms_tune.data.schema import CLASSES, EEG_COLUMNS, SPECTROGRAM_COLUMNS, VOTE_COLUMNS
from hms_tune.data.synthetic import ORACLE, Extent, synthesize
from hms_tune.data.synthetic.spectrogram import chain_spectrogram
from hms_tune.errors import DataError, UsageError

SMALL = {"patients": 3, "extent": Extent(test_patients=1, max_recordings=2, max_seconds=100), "seed": 3}


@pytest.fixture(scope="module")
def competition(tmp_path_factory: pytest.TempPathFactory) -> Competition:
    return synthesize(tmp_path_factory.mktemp("synthetic") / "hms", jobs=2, **SMALL)


def digests(root: Path) -> dict[str, str]:
    files = (path for path in sorted(root.rglob("*")) if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_tables_have_the_columns_types_and_order_of_the_real_ones(competition: Competition) -> None:
    train = pd.read_csv(competition.root / "train.csv")
    ids = ["eeg_id", "eeg_sub_id", "eeg_label_offset_seconds"]
    ids += ["spectrogram_id", "spectrogram_sub_id", "spectrogram_label_offset_seconds"]
    assert list(train.columns) == [*ids, "label_id", "patient_id", "expert_consensus", *VOTE_COLUMNS]
    floats = {"eeg_label_offset_seconds", "spectrogram_label_offset_seconds"}
    for name in set(train.columns) - {"expert_consensus"}:
        assert train[name].dtype == (np.float64 if name in floats else np.int64), name
    consensus = np.array(CLASSES)[train[list(VOTE_COLUMNS)].to_numpy().argmax(axis=1)]
    assert (train["expert_consensus"] == consensus).all()

    test = pd.read_csv(competition.root / "test.csv")
    assert list(test.columns) == ["spectrogram_id", "eeg_id", "patient_id"]
    submission = pd.read_csv(competition.root / "sample_submission.csv")
    assert list(submission.columns) == ["eeg_id", *VOTE_COLUMNS]
    assert submission["eeg_id"].tolist() == test["eeg_id"].tolist()
    np.testing.assert_allclose(submission[list(VOTE_COLUMNS)], 1 / 6)
    assert not set(test["patient_id"]) & set(train["patient_id"])


def test_the_reader_of_real_competitions_accepts_it(competition: Competition) -> None:
    labels = make_labels(competition.table("train"))
    assert len(np.unique(labels.patient_id)) == 3
    assert len(competition.table("test")) >= 1


def test_eeg_files_have_the_real_layout(competition: Competition) -> None:
    train = competition.table("train")
    for split, eeg_ids in (
        ("train", train["eeg_id"].unique()),
        ("test", competition.table("test")["eeg_id"]),
    ):
        for eeg_id in eeg_ids:
            file = pq.ParquetFile(competition.root / f"{split}_eegs/{eeg_id}.parquet")
            assert file.schema_arrow.names == list(EEG_COLUMNS)
            assert {str(kind) for kind in file.schema_arrow.types} == {"float"}
            assert file.metadata.row_group(0).column(0).compression == "SNAPPY"
            if split == "test":
                assert file.metadata.num_rows == 10_000
            else:
                last = train.loc[train["eeg_id"] == eeg_id, "eeg_label_offset_seconds"].max()
                assert file.metadata.num_rows >= 200 * last + 10_000
    assert len(list((competition.root / "train_eegs").iterdir())) == train["eeg_id"].nunique()


def test_spectrogram_files_have_the_real_layout(competition: Competition) -> None:
    train = competition.table("train")
    for split, kind in (("train", "int64"), ("test", "int16")):
        table = train if split == "train" else competition.table("test")
        for spectrogram_id in table["spectrogram_id"].unique():
            frames = pq.read_table(competition.root / f"{split}_spectrograms/{spectrogram_id}.parquet")
            assert frames.column_names == ["time", *SPECTROGRAM_COLUMNS]
            assert str(frames.schema.field("time").type) == kind
            assert {str(field.type) for field in list(frames.schema)[1:]} == {"float"}
            assert frames["time"].to_pylist() == list(range(1, 2 * len(frames), 2))
            if split == "test":
                assert len(frames) == 300
            else:
                rows = train["spectrogram_id"] == spectrogram_id
                last = train.loc[rows, "spectrogram_label_offset_seconds"].max()
                assert len(frames) >= last / 2 + 300


def test_the_eeg_lies_in_the_middle_of_its_spectrogram(competition: Competition) -> None:
    checked = 0
    for row in competition.table("train").itertuples():
        eeg = pd.read_parquet(competition.root / f"train_eegs/{row.eeg_id}.parquet").to_numpy()
        start = int(200 * row.eeg_label_offset_seconds)
        window = eeg[start : start + 10_000, :19].T
        first = int(row.spectrogram_label_offset_seconds / 2)
        path = competition.root / f"train_spectrograms/{row.spectrogram_id}.parquet"
        frames = pd.read_parquet(path).to_numpy()[first : first + 300, 1:]
        if np.isnan(window).any() or np.isnan(frames[138:162]).any():
            continue
        # the EEG window begins at second 275, so frame 138, centred on second 277, is centred on its second 2
        mine = np.log(chain_spectrogram(window, 24, first_centre=400)[2:22])
        theirs = np.log(frames[138:162][2:22])
        assert np.corrcoef(mine.ravel(), theirs.ravel())[0, 1] > 0.999
        checked += 1
    assert checked > 3


def test_the_same_seed_gives_the_same_bytes_whatever_the_jobs(
    competition: Competition, tmp_path: Path
) -> None:
    alone = synthesize(tmp_path / "alone", jobs=1, **SMALL)
    assert digests(alone.root) == digests(competition.root)


def test_without_signal_the_labels_stay_and_the_eeg_differs(competition: Competition, tmp_path: Path) -> None:
    silent = digests(synthesize(tmp_path / "silent", signal=0.0, **SMALL).root)
    full = digests(competition.root)
    assert silent.keys() == full.keys()
    for table in ("train.csv", "test.csv", "sample_submission.csv", ORACLE):
        assert silent[table] == full[table]
    assert any(silent[name] != full[name] for name in full if name.startswith("train_eegs"))


def test_the_oracle_knows_every_window(competition: Competition) -> None:
    oracle = pd.read_parquet(competition.root / ORACLE)
    train = competition.table("train")
    assert set(oracle.loc[oracle["split"] == "train", "label_id"]) == set(train["label_id"])
    np.testing.assert_allclose(oracle[list(VOTE_COLUMNS)].sum(axis=1), 1)


def test_progress_counts_to_the_end(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    synthesize(
        tmp_path / "hms",
        patients=1,
        extent=Extent(test_patients=1, max_recordings=1),
        progress=lambda done, total: seen.append((done, total)),
    )
    assert seen == [(1, 2), (2, 2)]


def test_a_folder_in_use_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "hms").mkdir()
    (tmp_path / "hms" / "precious").write_text("kept")
    with pytest.raises(DataError, match="not empty"):
        synthesize(tmp_path / "hms", **SMALL)
    (tmp_path / "file").write_text("kept")
    with pytest.raises(DataError, match="a file stands"):
        synthesize(tmp_path / "file", **SMALL)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "hms", "precious"]


def test_a_failure_leaves_nothing_behind(tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        synthesize(tmp_path / "hms", progress=stop, patients=2, extent=Extent(test_patients=1))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"patients": 0},
        {"signal": -1.0},
        {"signal": float("nan")},
        {"jobs": 0},
        {"extent": Extent(max_seconds=49)},
        {"seed": -1},
    ],
)
def test_numbers_out_of_range_are_refused_before_anything_is_written(
    tmp_path: Path, wrong: dict[str, float]
) -> None:
    with pytest.raises(UsageError, match="must be at least"):
        synthesize(tmp_path / "hms", **wrong)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []
