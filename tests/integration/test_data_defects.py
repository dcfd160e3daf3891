import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from hms_tune.cli.data import app
from hms_tune.data.check import find_defects
from hms_tune.data.layout import Competition
from hms_tune.data.prepare import prepare
from hms_tune.data.schema import EEG_COLUMNS
from hms_tune.errors import DataError

Change = Callable[[Path], None]


def rewrite(name: str, change: Callable[[pa.Table], pa.Table]) -> Change:
    def apply(root: Path) -> None:
        pq.write_table(change(pq.read_table(root / name)), root / name)

    return apply


def edit(name: str, **values: object) -> Change:
    """Set cells of the first row of a table."""

    def apply(root: Path) -> None:
        table = pd.read_csv(root / name)
        for column, value in values.items():
            table[column] = table[column].astype(object)
            table.loc[0, column] = value
        table.to_csv(root / name, index=False)

    return apply


def delete(name: str) -> Change:
    return lambda root: (root / name).unlink()


def cut(name: str, size: int) -> Change:
    return lambda root: (root / name).write_bytes((root / name).read_bytes()[:size])


def remove_folder(name: str) -> Change:
    def apply(root: Path) -> None:
        for path in (root / name).iterdir():
            path.unlink()
        (root / name).rmdir()

    return apply


def infinite(table: pa.Table) -> pa.Table:
    column = table["F3"].to_numpy().copy()
    column[77] = np.inf
    return table.set_column(1, "F3", pa.array(column))


def silent(table: pa.Table) -> pa.Table:
    values = {name: table[name].to_numpy().copy() for name in EEG_COLUMNS}
    for column in values.values():
        column[1_000:] = np.nan
    return pa.table(values)


EEG, SPECTROGRAM = "train_eegs/1000.parquet", "train_spectrograms/5000.parquet"

BAD = {
    "missing table": (
        delete("train.csv"),
        "train.csv",
        None,
        "the file is missing, though train_eegs is there",
    ),
    "missing folder": (remove_folder("train_eegs"), "train_eegs", None, "the folder is missing"),
    "missing column": (
        rewrite(EEG, lambda table: table.drop_columns(["Cz", "EKG"])),
        EEG,
        "Cz",
        "the column is missing, and 1 more",
    ),
    "missing time": (
        rewrite(SPECTROGRAM, lambda table: table.drop_columns(["time"])),
        SPECTROGRAM,
        "time",
        "the column is missing",
    ),
    "renamed region": (
        rewrite(
            SPECTROGRAM,
            lambda table: table.rename_columns([n.replace("RL", "XX") for n in table.column_names]),
        ),
        SPECTROGRAM,
        "RL_0.59",
        "the column is missing, and 99 more",
    ),
    "wrong type": (
        rewrite(EEG, lambda table: table.set_column(0, "Fp1", table["Fp1"].cast(pa.string()))),
        EEG,
        "Fp1",
        "the type is string, not float32",
    ),
    "no rows": (rewrite(EEG, lambda table: table.slice(0, 0)), EEG, None, "the file has no rows"),
    "too short": (
        rewrite(EEG, lambda table: table.slice(0, 9_999)),
        EEG,
        None,
        "the EEG has 9999 rows (49.995 s), fewer than 10000 (50 s)",
    ),
    "empty file": (cut(EEG, 0), EEG, None, "not a readable parquet file: the file is empty, 0 bytes"),
    "truncated": (cut(EEG, 5_000), EEG, None, "not a readable parquet file"),
    "id without EEG": (delete(EEG), EEG, None, "the file is missing, though train.csv names eeg_id 1000"),
    "id without spectrogram": (
        delete(SPECTROGRAM),
        SPECTROGRAM,
        None,
        "the file is missing, though train.csv names spectrogram_id 5000",
    ),
    "window beyond the EEG": (
        edit("train.csv", eeg_label_offset_seconds=10.5),
        EEG,
        None,
        "a labelled window ends at 60.5 s, but the EEG ends at 60 s",
    ),
    "window beyond the spectrogram": (
        edit("train.csv", spectrogram_label_offset_seconds=620),
        SPECTROGRAM,
        "time",
        "a label starts at 620 s, but the spectrogram ends at 620 s",
    ),
    "infinite sample": (rewrite(EEG, infinite), EEG, "F3", "row 77 is infinite"),
    "window of NaN": (
        rewrite(EEG, silent),
        EEG,
        None,
        "the window from 10 s to 60 s holds nothing but NaN",
    ),
    "zero votes": (
        edit("train.csv", seizure_vote=0, lpd_vote=0),
        "train.csv",
        "seizure_vote, lpd_vote, gpd_vote, lrda_vote, grda_vote, other_vote",
        "line 2: eeg_id 1000, eeg_sub_id 0 has zero votes",
    ),
    "negative vote": (edit("train.csv", gpd_vote=-3), "train.csv", "gpd_vote", "line 2: -3 is negative"),
    "wrong type in table": (
        edit("test.csv", patient_id="Bob"),
        "test.csv",
        "patient_id",
        "line 2: 'Bob' is not a whole number",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_named_by_check_and_by_prepare_and_changes_nothing(
    tmp_path: Path, competition_writer: Callable[..., Path], name: str
) -> None:
    change, file, column, what = BAD[name]
    root = competition_writer(tmp_path / "hms", patients=2, recordings_per_patient=1, nan_gap=False)
    change(root)
    before = sorted(tmp_path.rglob("*"))
    defects = find_defects(root, jobs=1)
    assert [(defect.file, defect.column) for defect in defects] == [(str(root / file), column)]
    assert defects[0].what.startswith(what)
    assert defects[0].mend
    with pytest.raises(DataError) as refusal:
        prepare(root, jobs=1)
    assert refusal.value.where == defects[0].where
    assert refusal.value.what == defects[0].what
    assert "\n" not in str(refusal.value)
    assert sorted(tmp_path.rglob("*")) == before


def test_every_defect_of_a_folder_is_in_one_list(
    tmp_path: Path, competition_writer: Callable[..., Path]
) -> None:
    root = competition_writer(tmp_path / "hms", patients=4, recordings_per_patient=1)
    delete("train_spectrograms/5003.parquet")(root)
    cut("train_eegs/1001.parquet", 100)(root)
    rewrite("train_eegs/1002.parquet", lambda table: table.slice(0, 500))(root)
    edit("test.csv", eeg_id="x")(root)
    found = [(Path(defect.file).name, defect.column) for defect in find_defects(root, jobs=2)]
    assert found == [
        ("test.csv", "eeg_id"),
        ("5003.parquet", None),
        ("1001.parquet", None),
        ("1002.parquet", None),
    ]
    with pytest.raises(DataError, match=r"test\.csv, column eeg_id"):
        prepare(root)


def test_the_first_of_several_defects_says_how_many_stand_behind_it(
    tmp_path: Path, competition_writer: Callable[..., Path]
) -> None:
    root = competition_writer(tmp_path / "hms", patients=4, recordings_per_patient=1)
    for number in (1000, 1001, 1002):
        delete(f"train_eegs/{number}.parquet")(root)
    with pytest.raises(
        DataError, match=r"1000\.parquet.*\(2 more: `hms-tune data check` lists every defect\)"
    ):
        prepare(root)


def test_a_missing_folder_and_an_empty_one_say_how_to_get_data(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"nowhere: the folder does not exist\. Check the path\. `hms-tune data"
    ):
        Competition.open(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"neither train\.csv nor test\.csv is there"):
        Competition.open(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="not a folder"):
        Competition.open(tmp_path / "file")
    assert len(find_defects(tmp_path / "nowhere")) == 1


def test_a_split_that_is_asked_for_must_be_there(
    tmp_path: Path, competition_writer: Callable[..., Path]
) -> None:
    root = competition_writer(tmp_path / "hms", patients=1, splits=("train",), spectrograms=False)
    assert Competition.open(root).splits == ("train",)
    with pytest.raises(DataError, match=r"test\.csv is not there"):
        Competition.open(root, splits=("test",))


def test_check_command_lists_defects_as_json_and_exits_1(
    tmp_path: Path, competition_writer: Callable[..., Path]
) -> None:
    root = competition_writer(tmp_path / "hms", patients=1, recordings_per_patient=1)
    runner = CliRunner()
    sound = runner.invoke(app, ["check", str(root)])
    assert (sound.exit_code, sound.stdout) == (0, f"{root}: no defects\n")
    delete(EEG)(root)
    spoilt = runner.invoke(app, ["check", str(root), "--json"])
    assert spoilt.exit_code == 1
    assert [defect["file"] for defect in json.loads(spoilt.stdout)] == [str(root / EEG)]


def test_prepare_command_prints_the_store(tmp_path: Path, competition_writer: Callable[..., Path]) -> None:
    root = competition_writer(tmp_path / "hms", patients=1, recordings_per_patient=1)
    run = CliRunner().invoke(app, ["prepare", str(root), "--jobs", "1"])
    assert (run.exit_code, run.stdout) == (0, f"{root / 'store'}: 3 EEGs, 3 spectrograms, 2 MiB\n")
