"""The bytes of a store: the same whoever decodes, in whatever order, and as earlier versions wrote them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hms_tune.data.schema import EEG_COLUMNS, SPECTROGRAM_COLUMNS
from hms_tune.data.store import write
from hms_tune.data.store.prepare import prepare
from hms_tune.data.store.store import Store

EXPECTED = {
    "eeg": "947973980a8a7b2d74ff22bc3d35ed342fb98935d21f3923861f0900ac385ddb",
    "spectrogram": "701e8bce54a8ccc115ffe639dbc16fd8be55f3f341a24ec06dc663a049513972",
    "recordings": "322251564a9075e35fa3ae9465dc8ab94161f173021c11d8ae6f7b50d8ee5fad",
    "spectrograms": "f069d539c8093d0f27f93f368fb57acb91a076a945a9ef77d3de6c569a5ea30b",
    "digest": "2b94f14456c176c17517dd4191978225f359149323a7a78a37e728104be689ec",
}
"""SHA-256 of what the version 0.1.0 wrote for :func:`uneven_competition`."""


def uneven_competition(root: Path, writer: Callable[..., Path]) -> Path:
    """A competition of unequal files: gaps, a dead channel, clipped samples, and a spectrogram too short.

    Whole numbers of µV and powers of two, so that no order of summation and no library's logarithm can round
    in another way.
    """
    writer(root, patients=5, recordings_per_patient=3, test_recordings=4)
    rng = np.random.default_rng(7)
    for number, path in enumerate(sorted(root.glob("*_eegs/*.parquet"))):
        n_times = 10_000 if path.parent.name == "test_eegs" else 12_000 + 200 * int(rng.integers(0, 60)) + 7
        values = rng.integers(-300, 300, (20, n_times)).astype(np.float32)
        values += rng.integers(-2000, 2000, (20, 1))
        if number % 3 == 0:
            values[:, 2_000:2_050] = np.nan
        if number % 4 == 1:
            values[19] = np.nan
        if number % 5 == 2:
            values[3, 77] = 100_000
        _write(path, dict(zip(EEG_COLUMNS, values, strict=True)))
    for number, path in enumerate(sorted(root.glob("*_spectrograms/*.parquet"))):
        n_frames = 300 + int(rng.integers(-20, 90))
        power = np.exp2(rng.integers(-30, 12, (400, n_frames))).astype(np.float32)
        power[:, 5 : 5 + number] = np.nan
        time = {"time": 1 + 2 * np.arange(n_frames)}
        _write(path, time | dict(zip(SPECTROGRAM_COLUMNS, power, strict=True)))
    return root


def _write(path: Path, columns: dict[str, np.ndarray]) -> None:
    pq.write_table(pa.table(columns), path)


def content_of(store: Store) -> dict[str, str]:
    """Digests of all that does not depend on when, and by which version of pyarrow, a file was written."""
    found = {
        "eeg": (store.path / "eeg.f16").read_bytes(),
        "spectrogram": (store.path / "spectrogram.f16").read_bytes(),
    }
    for name, index in (("recordings", store.recordings), ("spectrograms", store.spectrograms)):
        columns = [column for column in index if not column.startswith("file_")]
        found[name] = index[columns].to_csv(float_format="%.4f").encode()
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in found.items()}
    return digests | {"digest": store.manifest.digest}


@pytest.fixture(scope="module")
def uneven(tmp_path_factory: pytest.TempPathFactory, competition_writer: Callable[..., Path]) -> Path:
    return uneven_competition(tmp_path_factory.mktemp("uneven") / "hms", competition_writer)


@pytest.mark.parametrize(("jobs", "processes"), [(1, False), (3, False), (2, True)])
def test_a_store_holds_the_bytes_that_earlier_versions_wrote(
    uneven: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jobs: int, processes: bool
) -> None:
    if processes:
        monkeypatch.setattr(write, "WORTH_PROCESSES", 0)
    assert content_of(prepare(uneven, store=tmp_path / "store", jobs=jobs)) == EXPECTED
