"""Files of soft labels that somebody sent."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hms_tune.data.schema import CLASSES
from hms_tune.data.soft_labels import SoftLabels
from hms_tune.errors import DataError

ABOUT: dict[str, Any] = {"teacher": "effnet, trial 1", "rows": "eeg", "taught_by": [1, 2]}


def written(path: Path, about: object = None, *, rows: int = 3, **columns: object) -> Path:
    values: dict[str, Any] = {"eeg_id": np.arange(rows), "eeg_label_offset_seconds": np.zeros(rows)}
    values |= {f"{name.lower()}_probability": np.full(rows, 1 / 6, np.float32) for name in CLASSES}
    told = about if isinstance(about, bytes) else json.dumps(about or ABOUT).encode()
    table = pa.table(values | columns).replace_schema_metadata({b"hms_tune": told})
    pq.write_table(table, path)
    return path


@pytest.mark.parametrize(
    ("about", "columns", "said"),
    [
        (None, {"eeg_id": np.zeros(3, np.int64)}, "a row stands there twice"),
        (None, {"eeg_label_offset_seconds": np.full(3, np.nan)}, "a number is not finite"),
        (None, {"eeg_id": ["a", "b", "c"]}, "eeg_id holds string"),
        (None, {"gpd_probability": np.full(3, 0.9)}, "rows do not sum to 1"),
        (b"[" * 100_000, {}, "recursion"),
        (ABOUT | {"taught_by": [10**30]}, {}, "too large"),
        (ABOUT | {"rows": ["eeg"]}, {}, "what a row is"),
    ],
)
def test_what_are_no_soft_labels_is_told_in_a_sentence(
    about: object, columns: dict[str, object], said: str, tmp_path: Path
) -> None:
    path = written(tmp_path / "soft.parquet", about, **columns)
    with pytest.raises(DataError, match=f"these are no soft labels: .*{said}"):
        SoftLabels.read(path)


def test_rows_without_end_are_not_read(tmp_path: Path) -> None:
    eeg_id = pa.array(np.zeros(2_000_001, np.int64))
    path = tmp_path / "soft.parquet"
    names = ["eeg_id", "eeg_label_offset_seconds", *(f"{name.lower()}_probability" for name in CLASSES)]
    pq.write_table(pa.table(dict.fromkeys(names, eeg_id)), path)
    with pytest.raises(DataError, match=r"it has 2,000,001 rows, more than 2,000,000"):
        SoftLabels.read(path)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "soft.parquet")
    with pytest.raises(DataError, match="it is no regular file"):
        SoftLabels.read(tmp_path / "soft.parquet")


def test_they_are_written_for_their_user_alone_and_through_no_link(tmp_path: Path) -> None:
    labels = SoftLabels.read(written(tmp_path / "given.parquet"))
    folder = tmp_path / "soft_labels"
    labels.write(folder / "teacher.parquet")
    modes = [path.stat().st_mode & 0o777 for path in (folder, folder / "teacher.parquet")]
    assert modes == [0o700, 0o600]
    (tmp_path / "mine").write_text("mine")
    (folder / ".teacher.parquet.partial").symlink_to(tmp_path / "mine")
    labels.write(folder / "teacher.parquet")
    assert (tmp_path / "mine").read_text() == "mine"
    np.testing.assert_array_equal(SoftLabels.read(folder / "teacher.parquet").eeg_id, labels.eeg_id)
