"""One window as people have it: a table as pandas reads it, an array, a file."""

from __future__ import annotations

import io
import pydoc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import hms_tune
from hms_tune.config.trial import TrialConfig
from hms_tune.data.schema import EEG_COLUMNS, SPECTROGRAM_COLUMNS
from hms_tune.errors import DataError, SignalError
from hms_tune.export.signals import Windows, eeg_windows, spectrogram_windows

CONFIG = TrialConfig().input


@pytest.fixture(scope="module")
def eeg(competition_writer: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("one") / "root"
    return competition_writer(root, splits=("test",), test_recordings=1) / "test_eegs/3000.parquet"


def same(one: Windows, other: Windows) -> bool:
    return torch.equal(eeg_windows(one, CONFIG), eeg_windows(other, CONFIG))


def test_a_table_is_read_by_name_in_any_order_and_with_the_names_that_recorders_write(eeg: Path) -> None:
    table = pd.read_parquet(eeg)
    array = table[list(EEG_COLUMNS)].to_numpy()
    assert eeg_windows(array, CONFIG).shape == (1, 20, 10_000)
    assert same(array, array[np.newaxis])
    assert same(table, array)
    assert same(table[list(reversed(table.columns))], array)
    assert same(table.rename(columns={"T3": "T7", "Fp1": "FP1", "EKG": "ECG"}), array)
    assert same(eeg, array)
    assert same(str(eeg), array)


def test_a_table_without_the_heart_is_read_and_one_without_an_electrode_is_refused(eeg: Path) -> None:
    table = pd.read_parquet(eeg)
    gap = table.assign(EKG=np.nan)
    assert same(table.drop(columns="EKG"), gap)
    with pytest.raises(SignalError, match="no column Fp1, Cz"):
        eeg_windows(table.drop(columns=["Cz", "Fp1"]), CONFIG)


def test_a_spectrogram_is_read_with_its_time_column(eeg: Path) -> None:
    path = next((eeg.parents[1] / "test_spectrograms").iterdir())
    table = pd.read_parquet(path)
    expected = spectrogram_windows(table[list(SPECTROGRAM_COLUMNS)].to_numpy())
    assert expected.shape == (1, 400, 300)
    for given in (table, path):
        assert np.array_equal(spectrogram_windows(given).numpy(), expected.numpy(), equal_nan=True)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "cut.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match=r"cut\.parquet: not a readable parquet file"):
        eeg_windows(tmp_path / "cut.parquet", CONFIG)
    with pytest.raises(DataError, match="the file is missing"):
        eeg_windows(tmp_path / "absent.parquet", CONFIG)


def test_help_shows_how_a_bundle_is_loaded() -> None:
    text = io.StringIO()
    pydoc.Helper(output=text).help(hms_tune)
    assert "load_bundle(path: " in pydoc.plain(text.getvalue())
    assert "load_bundle" in dir(hms_tune)
