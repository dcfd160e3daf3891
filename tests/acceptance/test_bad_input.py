"""Bad input, told to the commands a user would run: one clear line, exit code 1 or 2, nothing changed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sqlalchemy import func, select

from hms_tune.config.study_file import load_study_file
from hms_tune.data.identity import DataIdentity
from hms_tune.database.connect import Storage
from hms_tune.database.tables import trials, workers
from hms_tune.worker.open_study import open_search

Run = Callable[..., tuple[int, str]]

STUDY = """
study: tiny
data: {folds: 2, holdout: 0.0}
input: {eeg: {name: stft, n_fft: 256}, image: [32, 64]}
model: {backbone: test_resnet, pretrained: false}
training: {epochs: 1, batch_size: 4}
budget: {trials: 1}
tracking: {wandb: {mode: off}}
"""


def snapshot(folder: Path) -> dict[str, bytes]:
    """Every file below a folder with its content."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(hms_tune: Run, folder: Path, *arguments: str) -> str:
    """Run a command that must fail in one line and change nothing; returns the line."""
    before = snapshot(folder)
    code, error = hms_tune(*arguments)
    assert code in (1, 2), error
    lines = [line for line in error.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, error
    assert "Traceback" not in error
    assert snapshot(folder) == before
    return lines[0]


def rewrite(path: Path, change: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    if path.suffix == ".csv":
        change(pd.read_csv(path)).to_csv(path, index=False)
    else:
        change(pd.read_parquet(path)).to_parquet(path, index=False)


def missing_column(root: Path) -> None:
    rewrite(root / "train.csv", lambda table: table.drop(columns="lpd_vote"))


def wrong_type(root: Path) -> None:
    rewrite(
        root / "train.csv",
        lambda table: table.astype({"seizure_vote": str}).replace({"seizure_vote": "3"}, "x"),
    )


def empty_parquet(root: Path) -> None:
    (root / "train_eegs/1000.parquet").write_bytes(b"")


def nan_only_window(root: Path) -> None:
    rewrite(root / "train_eegs/1000.parquet", lambda eeg: eeg * np.float32(np.nan))


def short_eeg(root: Path) -> None:
    rewrite(root / "train_eegs/1001.parquet", lambda eeg: eeg.iloc[:9_000])


def spectrogram_without_file(root: Path) -> None:
    (root / "train_spectrograms/5002.parquet").unlink()


def zero_votes(root: Path) -> None:
    def none(table: pd.DataFrame) -> pd.DataFrame:
        table.loc[2, [name for name in table if name.endswith("_vote")]] = 0
        return table

    rewrite(root / "train.csv", none)


@pytest.mark.parametrize(
    ("defect", "named"),
    [
        (missing_column, ("train.csv", "lpd_vote")),
        (wrong_type, ("train.csv", "seizure_vote")),
        (empty_parquet, ("train_eegs/1000.parquet", "empty")),
        (nan_only_window, ("train_eegs/1000.parquet",)),
        (short_eeg, ("train_eegs/1001.parquet", "9000 rows")),
        (spectrogram_without_file, ("train_spectrograms/5002.parquet",)),
        (zero_votes, ("train.csv", "vote")),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
@pytest.mark.parametrize("command", ["prepare", "worker"])
def test_a_defect_of_the_data_is_named(
    hms_tune: Run,
    tmp_path: Path,
    competition_writer: Callable[..., Path],
    defect: Callable[[Path], None],
    named: tuple[str, ...],
    command: str,
) -> None:
    root = competition_writer(tmp_path / "hms", patients=2, seconds=51)
    (tmp_path / "tiny.yaml").write_text(STUDY)
    defect(root)
    arguments = {
        "prepare": ("data", "prepare", "hms"),
        "worker": ("worker", "--study", "tiny.yaml", "--data", "hms"),
    }[command]
    line = refused(hms_tune, tmp_path, *arguments)
    for words in named:
        assert words in line


def test_data_that_the_study_did_not_run_on_are_refused_with_what_differs(
    hms_tune: Run,
    tmp_path: Path,
    competition_writer: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    storage: Storage,
    home: Path,
) -> None:
    competition_writer(tmp_path / "hms", patients=2, seconds=51)
    (tmp_path / "tiny.yaml").write_text(STUDY)
    known = DataIdentity("0" * 64, eegs=3, rows=3, patients=2)
    open_search(storage, load_study_file(str(tmp_path / "tiny.yaml")), data=known)
    monkeypatch.setenv("HMS_TUNE_HOME", str(home))
    code, error = hms_tune("worker", "--study", "tiny.yaml", "--data", "hms")
    (line,) = [line for line in error.splitlines() if line.startswith("error: ")]
    assert code == 1
    assert "study tiny: this worker's data are not the study's: 4 EEGs instead of 3" in line
    with storage.statements() as connection:
        counts = [select(func.count()).select_from(table) for table in (trials, workers)]
        assert [connection.execute(count).scalar_one() for count in counts] == [0, 0]


def test_a_missing_folder_is_named(hms_tune: Run, tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(STUDY)
    assert "nowhere" in refused(hms_tune, tmp_path, "data", "prepare", "nowhere")
    assert "nowhere" in refused(hms_tune, tmp_path, "worker", "--study", "tiny.yaml", "--data", "nowhere")


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("test_resnet", "resnet_18", ("resnet_18", "resnet18")),
        ("pretrained: false", "pretrained: false, frozen_layers: 99", ("frozen_layers", "99")),
        ("study: tiny", "study: tiny/../../etc", ("tiny/../../etc", "hyphens")),
        ("folds: 2", "fold: 2", ("tiny.yaml:3", "folds")),
    ],
)
def test_a_study_that_cannot_run_is_named_before_anything_starts(
    hms_tune: Run,
    tmp_path: Path,
    competition_writer: Callable[..., Path],
    old: str,
    new: str,
    named: tuple[str, ...],
) -> None:
    competition_writer(tmp_path / "hms", patients=2, seconds=51)
    (tmp_path / "tiny.yaml").write_text(STUDY.replace(old, new))
    line = refused(hms_tune, tmp_path, "worker", "--study", "tiny.yaml", "--data", "hms")
    for words in named:
        assert words in line


def test_one_patient_cannot_fill_five_folds(
    hms_tune: Run, tmp_path: Path, competition_writer: Callable[..., Path]
) -> None:
    competition_writer(tmp_path / "hms", patients=1, seconds=51)
    (tmp_path / "tiny.yaml").write_text(STUDY.replace("folds: 2", "folds: 5"))
    code, _ = hms_tune("data", "prepare", "hms")
    assert code == 0
    line = refused(hms_tune, tmp_path, "worker", "--study", "tiny.yaml", "--data", "hms")
    assert "1 patient" in line
    assert "5 folds" in line


def test_spectrograms_that_are_not_there_are_named_before_anything_starts(
    hms_tune: Run, tmp_path: Path, competition_writer: Callable[..., Path]
) -> None:
    competition_writer(tmp_path / "hms", patients=2, seconds=51, spectrograms=False)
    study = STUDY.replace("input: {", "input: {kaggle: {choices: [null, kaggle]}, ")
    (tmp_path / "tiny.yaml").write_text(study)
    code, _ = hms_tune("data", "prepare", "hms")
    assert code == 0
    line = refused(hms_tune, tmp_path, "worker", "--study", "tiny.yaml", "--data", "hms")
    assert "spectrogram_id 5000" in line


def test_an_unreachable_database_is_named_without_its_password(
    hms_tune: Run,
    tmp_path: Path,
    competition_writer: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    competition_writer(tmp_path / "hms", patients=2, seconds=51)
    (tmp_path / "tiny.yaml").write_text(STUDY)
    code, _ = hms_tune("data", "prepare", "hms")
    assert code == 0
    url = "postgresql://hms:canary@127.0.0.1:9/hms"
    monkeypatch.setenv("HMS_TUNE_STORAGE", url)
    line = refused(hms_tune, tmp_path, "worker", "--study", "tiny.yaml", "--data", "hms")
    assert "127.0.0.1" in line
    assert "canary" not in line
