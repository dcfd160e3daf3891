"""A submission is valid or it is not written."""

from __future__ import annotations

import errno
import gzip
import os
import stat
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from hms_tune.data.schema import VOTE_COLUMNS
from hms_tune.errors import BundleError, HmsTuneError, UsageError
from hms_tune.export.submission import submission_table, write_submission

IDS = np.array([30, 10, 20])


def some_probabilities() -> np.ndarray:
    raw = np.random.default_rng(0).random((3, 6)).astype(np.float32)
    return np.asarray(raw / raw.sum(axis=1, keepdims=True))


def test_rows_keep_their_order_and_sum_to_one_as_written(tmp_path: Path) -> None:
    probabilities = some_probabilities()
    table = pd.read_csv(write_submission(tmp_path / "submission.csv", IDS, probabilities))
    assert list(table.columns) == ["eeg_id", *VOTE_COLUMNS]
    assert table["eeg_id"].tolist() == [30, 10, 20]
    values = table[list(VOTE_COLUMNS)].to_numpy()
    assert np.abs(values.sum(axis=1) - 1).max() < 1e-8
    assert np.abs(values - probabilities).max() < 1e-6


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -0.1, 0.5])
def test_what_is_no_distribution_is_refused_with_its_id(wrong: float, tmp_path: Path) -> None:
    probabilities = some_probabilities()
    probabilities[1, 2] = wrong
    with pytest.raises(BundleError, match="eeg_id 10: 1 of 3"):
        write_submission(tmp_path / "submission.csv", IDS, probabilities)
    assert list(tmp_path.iterdir()) == []


def test_a_repeated_id_is_refused() -> None:
    with pytest.raises(BundleError, match="twice"):
        submission_table(np.array([1, 2, 1]), some_probabilities())


def test_a_row_too_few_is_refused() -> None:
    with pytest.raises(BundleError, match=r"\(2, 6\), expected \(3, 6\)"):
        submission_table(IDS, some_probabilities()[:2])


def test_a_folder_is_no_place_for_a_submission(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is a folder"):
        write_submission(tmp_path, IDS, some_probabilities())


def test_a_pipe_and_a_device_are_written_into(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reading = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write_submission(pipe, IDS, some_probabilities())
    assert os.read(reading, 100).startswith(b"eeg_id,seizure_vote")
    os.close(reading)
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    write_submission(Path("/dev/null"), IDS, some_probabilities())
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)


def test_a_link_stays_one_and_what_it_leads_to_is_written(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    link = tmp_path / "submission.csv"
    link.symlink_to("elsewhere/kept.csv")
    write_submission(link, IDS, some_probabilities())
    assert link.is_symlink()
    assert [path.name for path in (tmp_path / "elsewhere").iterdir()] == ["kept.csv"]
    assert pd.read_csv(tmp_path / "elsewhere/kept.csv")["eeg_id"].tolist() == [30, 10, 20]


def test_an_ending_that_asks_for_compression_gets_it(tmp_path: Path) -> None:
    path = write_submission(tmp_path / "submission.csv.gz", IDS, some_probabilities())
    with gzip.open(path, "rt") as stream:
        assert stream.readline().startswith("eeg_id,")


def test_a_compressed_file_holds_one_of_its_own_name(tmp_path: Path) -> None:
    with zipfile.ZipFile(write_submission(tmp_path / "s.csv.zip", IDS, some_probabilities())) as archive:
        assert archive.namelist() == ["s.csv"]
    content = write_submission(tmp_path / "s.csv.gz", IDS, some_probabilities()).read_bytes()
    assert content[10:].startswith(b"s.csv\0")  # the name follows ten bytes of head
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s.csv.gz", "s.csv.zip"]


def test_a_pipe_whose_ending_asks_for_compression_gets_it(tmp_path: Path) -> None:
    pipe = tmp_path / "s.csv.gz"
    os.mkfifo(pipe)
    reading = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write_submission(pipe, IDS, some_probabilities())
    assert gzip.decompress(os.read(reading, 10_000)).startswith(b"eeg_id,seizure_vote")
    os.close(reading)


def test_a_disk_that_is_full_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "submission.csv"
    path.write_text("earlier")

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(pd.DataFrame, "to_csv", full)
    with pytest.raises(
        HmsTuneError, match=r"submission\.csv: cannot be written: No space left .* another --out"
    ):
        write_submission(path, IDS, some_probabilities())
    assert [(each.name, each.read_text()) for each in tmp_path.iterdir()] == [("submission.csv", "earlier")]
