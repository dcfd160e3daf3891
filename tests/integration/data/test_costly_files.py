"""Files that would cost memory or time without end are refused with a sentence."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hms_tune.data.check.folder import check_folder
from hms_tune.data.files.tables import read_table
from hms_tune.data.schema import EEG_COLUMNS
from hms_tune.data.store.prepare import prepare
from hms_tune.errors import DataError

EEG = "train_eegs/1000.parquet"


@pytest.fixture
def root(tmp_path: Path, competition_writer: Callable[..., Path]) -> Path:
    return competition_writer(tmp_path / "hms", patients=4, recordings_per_patient=1)


def day_and_more(path: Path) -> None:
    """27.8 hours of the same value, in a file of a few MB."""
    silence = pa.array(np.zeros(20_000_000, np.float32))
    pq.write_table(pa.table(dict.fromkeys(EEG_COLUMNS, silence)), path, compression="zstd")


def many_columns(path: Path) -> None:
    pq.write_table(pa.table({f"c{i}": pa.array([0.0], pa.float32()) for i in range(30_000)}), path)


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (day_and_more, "has 20,000,000 rows, more than the 17,280,000 of 24 hours"),
        (many_columns, "its footer takes"),
        (pipe, "it is no regular file"),
    ],
)
def test_a_signal_file_that_costs_too_much_is_refused(
    root: Path, spoil: Callable[[Path], None], said: str
) -> None:
    spoil(root / EEG)
    assert any(said in defect.what for defect in check_folder(root).defects)
    with pytest.raises(DataError, match=said):
        prepare(root, jobs=1)


def test_a_file_that_is_no_parquet_is_told_as_that_and_not_by_a_footer_it_has_not(root: Path) -> None:
    (root / EEG).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n")
    (root / "train_eegs/1001.parquet").write_text("<html>Please sign in before you download this.</html>")
    what = {defect.file[-12:]: defect.what for defect in check_folder(root, quick=True).defects}
    assert "pointer of Git LFS, for which `git lfs pull` gets the file" in what["1000.parquet"]
    assert "footer takes" not in what["1001.parquet"]
    assert "not a readable parquet file" in what["1001.parquet"]


def test_a_competition_one_folder_further_in_is_named(root: Path) -> None:
    with pytest.raises(DataError, match=f"It is in {root}: name that folder"):
        prepare(root.parent)


@pytest.mark.parametrize("digits", [30, 400, 5000])
@pytest.mark.parametrize("sign", ["", "-"])
@pytest.mark.parametrize("column", ["eeg_id", "seizure_vote"])
def test_a_number_of_any_length_is_a_defect(root: Path, column: str, sign: str, digits: int) -> None:
    table = pd.read_csv(root / "train.csv", dtype=str)
    table.loc[0, column] = sign + "9" * digits
    table.to_csv(root / "train.csv", index=False)
    read, defects = read_table(root / "train.csv", "train")
    assert read.empty
    assert [defect.column for defect in defects] == [column]
    assert "is not a whole number" in defects[0].what
    assert len(defects[0].what) < 120


def test_a_column_of_text_that_nobody_needs_is_not_read(root: Path) -> None:
    """8 GB of text in a file of half a MB: dictionary and runs take next to nothing."""
    path = root / EEG
    table = pq.read_table(path)
    note = pa.DictionaryArray.from_arrays(pa.array(np.zeros(len(table), np.int32)), ["x" * 700_000])
    pq.write_table(table.append_column("note", note), path, store_schema=False)
    command = [sys.executable, "-c", PREPARE, str(root)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr[-2000:]


PREPARE = """
import resource, sys
from pathlib import Path
resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
from hms_tune.data.check.folder import check_folder
from hms_tune.data.store.prepare import prepare
prepare(Path(sys.argv[1]), jobs=1)
assert check_folder(Path(sys.argv[1]), jobs=1).errors == 0
"""


@pytest.mark.parametrize("name", ["train.csv", "test.csv", "sample_submission.csv"])
def test_a_table_of_too_many_bytes_is_refused_before_it_is_read(root: Path, name: str) -> None:
    with (root / name).open("ab") as stream:
        stream.truncate(50 << 30)  # a hole: it takes no room
    said = [defect.what for defect in check_folder(root, jobs=1).defects if defect.file.endswith(name)]
    assert said == ["the table has 53,687,091,200 bytes, more than 134,217,728"]


def test_a_table_of_too_many_rows_is_refused(root: Path) -> None:
    header = (root / "test.csv").read_text().splitlines()[0]
    (root / "test.csv").write_text(header + "\n" + "1,1,1\n" * 1_000_001)
    (defect,) = read_table(root / "test.csv", "test")[1]
    assert defect.what == "the table has more than 1,000,000 rows"


def test_a_pipe_as_a_table_is_not_waited_for(root: Path) -> None:
    pipe(root / "train.csv")
    with pytest.raises(DataError):
        prepare(root)
    (defect,) = read_table(root / "train.csv", "train")[1]
    assert defect.what == "it is no regular file"


def test_a_table_of_a_million_columns_is_refused(root: Path) -> None:
    (root / "train.csv").write_text(",".join(f"c{i}" for i in range(1_000_000)) + "\n")
    (defect,) = read_table(root / "train.csv", "train")[1]
    assert defect.what == "the header names 1,000,000 columns, more than 1000"


@pytest.mark.parametrize("written", ["1001.0", "1.001E3"])
def test_a_long_id_is_refused_where_another_cell_would_round_it(root: Path, written: str) -> None:
    """One cell with a decimal point makes floats of a column, and ids of 19 digits others."""
    table = pd.read_csv(root / "train.csv", dtype=str)
    table["eeg_id"] = table["eeg_id"].replace("1000", "1234567890123456789")
    table.to_csv(root / "train.csv", index=False)
    exact, defects = read_table(root / "train.csv", "train")
    assert (defects, exact["eeg_id"].iloc[0]) == ([], 1234567890123456789)
    table["eeg_id"] = table["eeg_id"].replace("1001", written)
    table.to_csv(root / "train.csv", index=False)
    read, (defect,) = read_table(root / "train.csv", "train")
    assert (read.empty, defect.column, str(defect.kind)) == (True, "eeg_id", "cell-invalid")
