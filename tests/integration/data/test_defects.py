import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import Result
from typer.testing import CliRunner

from hms_tune.cli.data import app
from hms_tune.data.check.folder import check_folder
from hms_tune.data.files.competition import Competition
from hms_tune.data.files.defects import WARNINGS, DefectKind
from hms_tune.data.store.prepare import prepare
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


EEG = "train_eegs/1000.parquet"


def test_every_defect_of_a_folder_is_in_one_list(
    tmp_path: Path, competition_writer: Callable[..., Path]
) -> None:
    root = competition_writer(tmp_path / "hms", patients=6, recordings_per_patient=1)
    delete("train_spectrograms/5003.parquet")(root)
    cut("train_eegs/1001.parquet", 100)(root)
    rewrite("train_eegs/1002.parquet", lambda table: table.slice(0, 500))(root)
    edit("test.csv", eeg_id="x")(root)
    found = [(Path(defect.file).name, defect.column) for defect in check_folder(root, jobs=2).defects]
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
    assert len(check_folder(tmp_path / "nowhere").defects) == 1


def test_a_split_that_is_asked_for_must_be_there(
    tmp_path: Path, competition_writer: Callable[..., Path]
) -> None:
    root = competition_writer(tmp_path / "hms", patients=1, splits=("train",), spectrograms=False)
    assert Competition.open(root).splits == ("train",)
    with pytest.raises(DataError, match=r"test\.csv is not there"):
        Competition.open(root, splits=("test",))


def run_check(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["check", *arguments])


def test_check_command_says_what_a_sound_folder_holds(
    tmp_path: Path, competition_writer: Callable[..., Path]
) -> None:
    root = competition_writer(tmp_path / "hms", patients=6)
    run = run_check(str(root))
    assert run.exit_code == 0
    lines = [line.split() for line in run.stdout.splitlines()]
    assert lines[1] == ["train", "24", "12", "6", "12", "0.2", "60", "0.42"]
    assert lines[2] == ["test", "2", "2", "2", "2", "0.0", "50", "0.50"]
    assert ["LPD", "16.7", "16.7"] in lines  # rows and votes, %
    assert ["15", "12", "█" * 40] in lines
    assert run.stdout.splitlines()[-1] == f"{root}: no defects"


def test_check_command_lists_errors_before_warnings_and_counts_both(
    tmp_path: Path, competition_writer: Callable[..., Path]
) -> None:
    root = competition_writer(tmp_path / "hms", patients=6, recordings_per_patient=1)
    (root / "train_eegs/notes.txt").touch()
    warned = run_check(str(root))
    assert warned.exit_code == 0
    assert warned.stdout.splitlines()[-1] == "0 errors, 1 warning"
    delete(EEG)(root)
    spoilt = run_check(str(root))
    assert spoilt.exit_code == 1
    error, warning, count = spoilt.stdout.splitlines()[-3:]
    assert error.startswith(f"error file-missing  {root / EEG}: the file is missing, though train.csv")
    assert warning.startswith(
        f"warning file-unexpected  {root}/train_eegs/notes.txt: train.csv names no such"
    )
    assert count == "1 error, 1 warning"


def test_check_command_writes_out_the_first_of_many_defects_of_a_kind_and_json_all(
    tmp_path: Path, competition_writer: Callable[..., Path]
) -> None:
    root = competition_writer(tmp_path / "hms", patients=6, recordings_per_patient=1)
    for number in range(30):
        (root / f"test_eegs/{number}.tmp").touch()
    assert "… and 10 more of the kind file-unexpected; --json lists all" in run_check(str(root)).stdout
    assert len(json.loads(run_check(str(root), "--json").stdout)["defects"]) == 30


def test_check_command_as_json_carries_the_summary_and_the_defects(
    tmp_path: Path, competition_writer: Callable[..., Path]
) -> None:
    root = competition_writer(tmp_path / "hms", patients=2, recordings_per_patient=1)
    edit("train.csv", gpd_vote=-3)(root)
    delete("test_eegs/3000.parquet")(root)
    run = run_check(str(root), "--json", "--quick")
    assert run.exit_code == 1
    report = json.loads(run.stdout)
    assert (report["errors"], report["warnings"], report["quick"]) == (2, 0, True)
    assert report["summary"]["test"]["eegs"] == 2
    assert "train" not in report["summary"]
    assert report["defects"][0] == {
        "kind": "vote-negative",
        "severity": "error",
        "file": str(root / "train.csv"),
        "row": 2,
        "column": "gpd_vote",
        "what": "line 2: -3 is negative",
        "hint": "Restore the file from the competition's download.",
    }


def test_the_share_of_nan_is_told_by_channel(tmp_path: Path, competition_writer: Callable[..., Path]) -> None:
    root = competition_writer(tmp_path / "hms", patients=1, recordings_per_patient=1, test_recordings=1)

    def half_gone(table: pa.Table) -> pa.Table:
        values = table["Fz"].to_numpy().copy()
        values[:3_000] = np.nan  # of 12,000; 50 of them are NaN in every channel
        return table.set_column(8, "Fz", pa.array(values))

    rewrite(EEG, half_gone)(root)
    shares = check_folder(root).summary["train"].nan_shares
    assert shares is not None
    assert shares["Fz"] == 0.25
    assert shares["EKG"] == 50 / 12_000
    assert check_folder(root, quick=True).summary["train"].nan_shares is None


def test_prepare_command_prints_the_store(tmp_path: Path, competition_writer: Callable[..., Path]) -> None:
    root = competition_writer(tmp_path / "hms", patients=2, recordings_per_patient=1)
    run = CliRunner().invoke(app, ["prepare", str(root), "--jobs", "1"])
    assert (run.exit_code, run.stdout) == (0, f"{root / 'store'}: 4 EEGs, 4 spectrograms, 3 MiB\n")


def test_every_kind_of_defect_is_described_under_its_severity() -> None:
    page = (Path(__file__).parents[3] / "docs" / "data-check.md").read_text(encoding="utf-8")
    of_errors, of_warnings = page.split("## Warnings")
    for kind in DefectKind:
        assert f"`{kind}`" in (of_warnings if kind in WARNINGS else of_errors)
