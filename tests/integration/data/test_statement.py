"""What a folder says of itself: the rate of its EEG, and the votes behind a row of shares."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hms_tune.data.check.folder import check_folder
from hms_tune.data.files.competition import Competition
from hms_tune.data.files.half import Half
from hms_tune.data.labels import make_labels
from hms_tune.data.schema import EEG_COLUMNS, VOTE_COLUMNS
from hms_tune.data.store.prepare import prepare
from hms_tune.errors import ConfigError, DataError, HmsTuneError
from hms_tune.reports.figures.example import load_example

VOTES = list(VOTE_COLUMNS)


@pytest.fixture
def root(tmp_path: Path, competition_writer: Callable[..., Path]) -> Path:
    return competition_writer(tmp_path / "hms", nan_gap=False)


def kinds(root: Path) -> dict[str, str]:
    return {str(defect.kind): f"{defect.what}. {defect.hint}" for defect in check_folder(root).defects}


def at_rate(root: Path, rate: int, cut: int = 0) -> None:
    """Replace each EEG by waves of 10 Hz of the same length, but for some samples, at that rate."""
    for path in root.glob("*_eegs/*.parquet"):
        seconds = pq.read_metadata(path).num_rows // 200
        wave = 500 + 40 * np.sin(2 * np.pi * 10 * np.arange(seconds * rate - cut) / rate)
        pq.write_table(pa.table(dict.fromkeys(EEG_COLUMNS, wave.astype(np.float32))), path)


def waves(n_times: int) -> np.ndarray:
    return 500 + 40 * np.sin(2 * np.pi * 10 * np.arange(n_times) / 200)


def test_eeg_of_a_stated_rate_is_resampled_by_every_reader(root: Path) -> None:
    at_rate(root, 256)
    assert "sampling_rate: 256" in kinds(root)["sampling-rate"]
    before = prepare(root)
    assert before.manifest.n_samples == 12 * 60 * 256 + 2 * 50 * 256
    (root / "hms-tune.yaml").write_text("sampling_rate: 256\n")
    assert check_folder(root).defects == []
    store = prepare(root)
    assert (store.manifest.sfreq, store.manifest.source_sfreq) == (200, 256)
    assert store.manifest.digest != before.manifest.digest
    assert store.recordings["length"].tolist() == [12_000] * 12 + [10_000] * 2
    row = store.recordings.iloc[0]
    stored = store.eeg[row["start"] : row["start"] + row["length"], 3] + row["centre_F7"]
    assert np.abs(stored.astype(np.float64) - waves(12_000))[20:-20].max() < 0.5
    competition = Competition.open(root, splits=("test",))
    (window, _) = Half.open(competition, "test", ["eeg"]).windows(ahead=1)
    assert window["eeg"].shape == (10_000, 20)
    assert np.abs(load_example(root, 1000).eeg[0] - waves(12_000))[20:-20].max() < 0.5


RATES = [(128, 0), (128, 30), (100, 0), (125, 0), (160, 0)]


@pytest.mark.parametrize(
    ("rate", "cut", "seconds", "kind"),
    [
        *((*each, 60, "eeg-too-short") for each in RATES),
        *((*each, 400, "window-beyond-eeg") for each in RATES[:2]),
        *(pytest.param(*each, 400, "window-beyond-eeg", marks=pytest.mark.slow) for each in RATES[2:]),
    ],
)
def test_eeg_at_a_lower_rate_is_refused_with_the_rate_and_where_to_state_it(
    tmp_path: Path, competition_writer: Callable[..., Path], rate: int, cut: int, seconds: int, kind: str
) -> None:
    root = competition_writer(
        tmp_path / "slow", seconds=seconds, recordings_per_patient=1, nan_gap=False, spectrograms=False
    )
    at_rate(root, rate, cut)
    trained = [each for each in check_folder(root).defects if "train_eegs" in each.file]
    assert {str(each.kind) for each in trained} == {kind}
    for each in check_folder(root).defects:
        assert each.what.endswith(f": is it sampled at {rate} Hz?")
        assert each.hint.startswith(f"If it is, write sampling_rate: {rate} into hms-tune.yaml there; else ")
    with pytest.raises(DataError, match=f"sampling_rate: {rate} into hms-tune.yaml there; else restore the"):
        prepare(root)
    if not cut:
        (root / "hms-tune.yaml").write_text(f"sampling_rate: {rate}\n")
        assert check_folder(root).defects == []
        assert prepare(root).recordings["length"].tolist() == [200 * seconds] * 6 + [10_000] * 2


def test_a_short_eeg_of_no_known_rate_is_told_where_a_rate_is_stated_or_that_one_is(root: Path) -> None:
    path = root / "train_eegs" / "1000.parquet"
    pq.write_table(pq.read_table(path).slice(0, 11_000), path)  # 55 s of 60
    (defect,) = check_folder(root).defects
    assert defect.what == "a labelled window ends at 60 s, but the EEG ends at 55 s"
    assert defect.hint == (
        "Restore the file from its source, or correct eeg_label_offset_seconds of eeg_id 1000; where EEG is "
        "not sampled at 200 Hz, write its sampling_rate into hms-tune.yaml."
    )
    at_rate(root, 128)
    (root / "hms-tune.yaml").write_text("sampling_rate: 256\n")
    told = check_folder(root).defects[0]
    assert told.hint.endswith("; it is read as 256 Hz, which hms-tune.yaml states.")


def test_a_test_eeg_at_a_higher_rate_is_told_the_rate(root: Path) -> None:
    at_rate(root, 256)
    told = [each for each in check_folder(root).defects if "test_eegs" in each.file]
    assert {each.what for each in told} == {
        "the test EEG has 12800 rows, not 10000: is it sampled at 256 Hz?"
    }
    assert "(sampling_rate: 256)" in told[0].hint


def test_a_rate_that_is_stated_later_leaves_no_slice_of_the_other(root: Path) -> None:
    at_rate(root, 256)
    (root / "hms-tune.yaml").write_text("sampling_rate: 256\n")
    fresh = prepare(root, store=root.parent / "fresh")
    (root / "hms-tune.yaml").unlink()
    prepare(root)
    (root / "hms-tune.yaml").write_text("sampling_rate: 256\n")
    later = prepare(root)
    assert later.manifest.digest == fresh.manifest.digest
    assert (later.path / "eeg.f16").read_bytes() == (fresh.path / "eeg.f16").read_bytes()


def as_shares(root: Path, **columns: object) -> pd.DataFrame:
    """Write the votes as shares of two decimals, with further columns; gives the votes."""
    table = pd.read_csv(root / "train.csv")
    votes = table[VOTES].copy()
    table[VOTES] = votes.div(votes.sum(axis=1), axis=0).round(2)
    table.assign(**columns).to_csv(root / "train.csv", index=False)
    return votes


@pytest.mark.parametrize("name", ["n_votes", "total_evaluators", "Total_Votes"])
def test_shares_with_a_column_of_counts_are_the_votes_they_were_made_of(root: Path, name: str) -> None:
    counts = pd.read_csv(root / "train.csv")[VOTES].sum(axis=1)
    votes = as_shares(root, **{name: counts})
    assert f"weighed by the column {name}" in kinds(root)["votes-shares"]
    assert "column-extra" not in kinds(root)
    assert check_folder(root).errors == 0
    table = Competition.open(root).table("train")
    assert table[VOTES].equals(votes)
    assert prepare(root).train[VOTES].dtypes.tolist() == [np.dtype(np.int64)] * 6


def test_shares_without_counts_are_refused_until_the_folder_states_a_weight(root: Path) -> None:
    votes = as_shares(root)
    with pytest.raises(DataError, match=r"shares that add up to 1, and nothing says of how many.*n_votes"):
        Competition.open(root).table("train")
    (root / "hms-tune.yaml").write_text("votes_per_row: 7\n")
    assert "votes_per_row" in kinds(root)["votes-shares"]
    store = prepare(root)
    labels = make_labels(store.train, rows="row", min_votes=7)
    assert labels.total_votes.tolist() == [7] * 24
    assert np.abs(labels.targets - votes.div(votes.sum(axis=1), axis=0).to_numpy()).max() < 0.02
    example = load_example(root, 1000)
    assert example.votes is not None
    assert example.votes.sum() == pytest.approx(7)
    with pytest.raises(DataError, match="the most is 7"):
        make_labels(store.train, min_votes=8)


@pytest.mark.parametrize("count", [0, -3, 2.5, "many", "", 10**9, float("inf")])
def test_a_count_that_is_none_is_named_with_its_line(root: Path, count: object) -> None:
    as_shares(root, n_votes=[5, 5, count, *[5] * 21])
    with pytest.raises(DataError, match=r"train.csv, column n_votes: line 4: .* is no number of votes"):
        Competition.open(root).table("train")


def test_whole_votes_are_read_as_before_whatever_other_columns_say(root: Path) -> None:
    table = pd.read_csv(root / "train.csv").assign(n_votes=99)
    table.to_csv(root / "train.csv", index=False)
    (root / "hms-tune.yaml").write_text("votes_per_row: 7\n")
    assert "is ignored" in kinds(root)["votes-shares"]
    assert kinds(root)["column-extra"].startswith("the column is not one of the competition's")
    assert Competition.open(root).table("train")[VOTES].equals(table[VOTES])
    single = table.drop(columns="n_votes")
    single[VOTES] = np.eye(6, dtype=np.int64)[np.arange(len(table)) % 6]
    single.to_csv(root / "train.csv", index=False)
    (root / "hms-tune.yaml").unlink()
    assert Competition.open(root).table("train")[VOTES].equals(single[VOTES])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sampling_rat: 256", r"hms-tune.yaml:1: unknown key .*nearest: sampling_rate"),
        ("sampling_rate: 256.5", r"hms-tune.yaml:1: sampling_rate must be a whole number from 50 to 20,000"),
        ("votes_per_row: true", r"hms-tune.yaml:1: votes_per_row must be a whole number from 1 to 1,000"),
        ("votes_per_row: 0", r"votes_per_row must be a whole number"),
        ("sampling_rate: [", r"not valid YAML"),
        ('"\\ud800": 1', r"hms-tune.yaml:1: \\ud800 stands for no letter"),
        ("", "the file is empty"),
    ],
)
def test_a_statement_that_makes_no_sense_stops_everything_that_reads(
    root: Path, text: str, message: str
) -> None:
    (root / "hms-tune.yaml").write_text(text)
    (defect,) = check_folder(root).defects
    assert (defect.kind, defect.severity) == ("statement-invalid", "error")
    with pytest.raises(HmsTuneError, match=message):
        prepare(root)
    with pytest.raises(ConfigError, match=message):
        _ = Competition(root, ()).statement


def test_a_pipe_as_a_statement_is_not_waited_for(root: Path) -> None:
    os.mkfifo(root / "hms-tune.yaml")
    with pytest.raises(DataError, match="no regular file"):
        prepare(root)


def test_a_statement_that_goes_on_and_on_is_not_read(root: Path) -> None:
    (root / "hms-tune.yaml").write_text("#" * 10_001)
    with pytest.raises(DataError, match=r"hms-tune.yaml: cannot be read: it has more than 10,000 bytes"):
        prepare(root)


def test_a_few_eegs_that_end_by_chance_where_another_rate_would_let_them_raise_no_doubt(
    tmp_path: Path, competition_writer: Callable[..., Path]
) -> None:
    root = competition_writer(tmp_path / "chance", patients=12, seconds=64, spectrograms=False)
    table = pd.read_csv(root / "train.csv")
    table["eeg_label_offset_seconds"] = 14.0  # the EEGs end with their last label, two of them 14 s later
    names = table["eeg_id"].unique()
    table.loc[table["eeg_id"].isin(names[:2]), "eeg_label_offset_seconds"] = 0.0
    table.to_csv(root / "train.csv", index=False)
    assert len(names) > 20
    assert kinds(root) == {}
    table["eeg_label_offset_seconds"] = 0.0
    table.to_csv(root / "train.csv", index=False)
    assert set(kinds(root)) == {"sampling-rate"}
