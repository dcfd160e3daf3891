from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from hms_tune.data.files.tables import read_table
from hms_tune.data.schema import EEG_COLUMNS, FREQUENCIES, SPECTROGRAM_COLUMNS, TRAIN_COLUMNS, VOTE_COLUMNS


def table() -> pd.DataFrame:
    n = 4
    columns: dict[str, object] = {column.name: [0] * n for column in TRAIN_COLUMNS}
    columns |= {"eeg_id": [1, 1, 2, 3], "eeg_sub_id": [0, 1, 0, 0], "label_id": [10, 11, 12, 13]}
    columns |= {"eeg_label_offset_seconds": [0.0, 2.0, 0.0, 0.0], "seizure_vote": [3] * n}
    columns |= {"expert_consensus": ["Seizure"] * n, "patient_id": [1, 1, 1, 2]}
    columns |= {"spectrogram_id": [5, 6, 7, 8]}
    return pd.DataFrame(columns)


def test_columns_are_those_of_the_competition() -> None:
    assert len(EEG_COLUMNS) == 20
    assert EEG_COLUMNS[-1] == "EKG"
    assert len(FREQUENCIES) == 100
    # rounded half up and without trailing zeros, as the competition's files have them
    assert SPECTROGRAM_COLUMNS[:2] == ("LL_0.59", "LL_0.78")
    assert SPECTROGRAM_COLUMNS[13] == "LL_3.13"
    assert SPECTROGRAM_COLUMNS[18] == "LL_4.1"
    assert SPECTROGRAM_COLUMNS[99:101] == ("LL_19.92", "RL_0.59")
    assert SPECTROGRAM_COLUMNS[-1] == "RP_19.92"


def test_a_sound_table_has_its_types_and_no_defects(tmp_path: Path) -> None:
    path = tmp_path / "train.csv"
    table().to_csv(path, index=False)
    read, defects = read_table(path, "train")
    assert defects == []
    assert read.columns.tolist() == [column.name for column in TRAIN_COLUMNS]
    assert read["eeg_id"].dtype == "int64"
    assert read["eeg_label_offset_seconds"].dtype == "float64"


def test_columns_too_many_or_in_another_order_are_warnings_and_change_nothing(tmp_path: Path) -> None:
    table().to_csv(tmp_path / "plain.csv", index=False)
    plain, _ = read_table(tmp_path / "plain.csv", "train")
    path = tmp_path / "train.csv"
    table().assign(extra="ignored").iloc[:, ::-1].to_csv(path, index=False)
    read, defects = read_table(path, "train")
    assert [(d.kind, d.severity, d.column) for d in defects] == [
        ("column-extra", "warning", "extra"),
        ("column-order", "warning", "other_vote"),
    ]
    pd.testing.assert_frame_equal(read, plain)


def spoil(column: str, row: int, value: object) -> Callable[[pd.DataFrame], pd.DataFrame]:
    def change(frame: pd.DataFrame) -> pd.DataFrame:
        changed = frame.astype({column: object})
        changed.loc[row, column] = value
        return changed

    return change


@pytest.mark.parametrize(
    ("change", "column", "what"),
    [
        (lambda t: t.drop(columns="lpd_vote"), "lpd_vote", "the column is missing"),
        (lambda t: t.head(0), None, "the table has no rows"),
        (spoil("gpd_vote", 2, "many"), "gpd_vote", "line 4: 'many' is not a whole number"),
        (spoil("eeg_id", 1, 1.5), "eeg_id", "line 3: '1.5' is not a whole number"),
        (spoil("patient_id", 0, None), "patient_id", "line 2: the cell is empty"),
        (
            spoil("eeg_label_offset_seconds", 3, "inf"),
            "eeg_label_offset_seconds",
            "line 5: 'inf' is not a finite number",
        ),
        (
            spoil("expert_consensus", 1, "Sz"),
            "expert_consensus",
            "line 3: 'Sz' is not one of Seizure, LPD, GPD, LRDA, GRDA, Other",
        ),
        (spoil("seizure_vote", 1, -1), "seizure_vote", "line 3: -1 is negative"),
        (
            spoil("eeg_label_offset_seconds", 1, -2.0),
            "eeg_label_offset_seconds",
            "line 3: -2.0 is negative",
        ),
        (
            spoil("seizure_vote", 2, 0),
            ", ".join(VOTE_COLUMNS),
            "line 4: eeg_id 2, eeg_sub_id 0 has zero votes",
        ),
        (
            spoil("eeg_sub_id", 1, 0),
            "eeg_id + eeg_sub_id",
            "line 3: eeg_id 1, eeg_sub_id 0 stands in an earlier line too",
        ),
        (
            spoil("label_id", 3, 10),
            "label_id",
            "line 5: label_id 10 stands in an earlier line too",
        ),
        (spoil("patient_id", 1, 9), "patient_id", "eeg_id 1 belongs to 2 patients"),
    ],
)
def test_a_spoilt_table_names_file_column_and_line(
    tmp_path: Path, change: Callable[[pd.DataFrame], pd.DataFrame], column: str | None, what: str
) -> None:
    path = tmp_path / "train.csv"
    change(table()).to_csv(path, index=False)
    read, defects = read_table(path, "train")
    assert read.empty
    assert [(defect.file, defect.column, defect.what) for defect in defects] == [(str(path), column, what)]
    assert defects[0].hint


def test_several_defects_of_one_table_are_listed_together(tmp_path: Path) -> None:
    path = tmp_path / "train.csv"
    spoil("gpd_vote", 2, "many")(spoil("eeg_id", 1, 1.5)(table())).drop(columns="lpd_vote").to_csv(
        path, index=False
    )
    _, defects = read_table(path, "train")
    assert [defect.column for defect in defects] == ["lpd_vote", "eeg_id", "gpd_vote"]


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "the file is empty"),
        (b"\xff\xfe\x00a,b\n\x80", "not a CSV table"),
        (b'a,"b\n1', "not a CSV table"),
    ],
)
def test_a_file_that_is_no_table_is_a_defect(tmp_path: Path, content: bytes, what: str) -> None:
    path = tmp_path / "test.csv"
    path.write_bytes(content)
    _, defects = read_table(path, "test")
    assert len(defects) == 1
    assert defects[0].what.startswith(what)


def test_an_eeg_twice_in_test_csv_is_a_defect(tmp_path: Path) -> None:
    path = tmp_path / "test.csv"
    path.write_text("spectrogram_id,eeg_id,patient_id\n1,5,1\n2,5,1\n")
    _, defects = read_table(path, "test")
    assert [defect.column for defect in defects] == ["eeg_id"]
