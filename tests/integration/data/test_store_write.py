"""The bytes of a store: the same whoever decodes, in whatever order, and as earlier versions wrote them."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hms_tune.data.check.folder import check_folder
from hms_tune.data.files.competition import Competition
from hms_tune.data.files.signal_files import list_signal_files
from hms_tune.data.schema import EEG_COLUMNS, SPECTROGRAM_COLUMNS
from hms_tune.data.store import decoder, write
from hms_tune.data.store.journal import Source, Written
from hms_tune.data.store.places import Place
from hms_tune.data.store.prepare import prepare
from hms_tune.data.store.store import Store
from hms_tune.errors import DataError

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


def _zigzag(number: int) -> bytes:
    """A number as Parquet's footer has it."""
    rest, coded = 2 * number, b""
    while rest > 127:
        coded += bytes([rest & 127 | 128])
        rest >>= 7
    return coded + bytes([rest])


def lie_about_rows(path: Path, rows: int, told: int) -> None:
    """Let the footer of a file tell of another number of rows than its columns have."""
    content = path.read_bytes()
    size = int.from_bytes(content[-8:-4], "little")
    footer, end = content[-8 - size : -8], content[-8:]
    field, next_field = b"\x16", b"\x19"
    changed = footer.replace(field + _zigzag(rows) + next_field, field + _zigzag(told) + next_field, 1)
    assert changed != footer
    assert len(changed) == len(footer)
    path.write_bytes(content[: -8 - size] + changed + end)


@pytest.mark.parametrize("told", [11_999, 12_001])
def test_a_footer_that_lies_about_its_rows_is_a_defect(
    tmp_path: Path, competition_writer: Callable[..., Path], told: int
) -> None:
    root = competition_writer(tmp_path / "hms", patients=6, windows_per_recording=1)
    lie_about_rows(root / "train_eegs/1001.parquet", 12_000, told)
    what = f"not a readable parquet file: the footer tells of {told} rows, the columns hold 12000"
    assert [defect.what for defect in check_folder(root).defects] == [what]
    with pytest.raises(DataError, match=rf"train_eegs/1001\.parquet: {what}\. Restore the file"):
        prepare(root)
    assert not (root / "store.partial").exists()


def test_a_file_that_changes_after_its_footer_was_read_is_refused(
    tmp_path: Path, competition_writer: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = competition_writer(tmp_path / "hms", patients=1, windows_per_recording=1)
    path = root / "train_eegs/1001.parquet"
    write_signals = write.write_signals

    def change_and_write(*arguments: Any, **options: Any) -> list[Written]:
        pq.write_table(pq.read_table(path).slice(0, 11_000), path)
        return write_signals(*arguments, **options)

    monkeypatch.setattr("hms_tune.data.store.prepare.write_signals", change_and_write)
    with pytest.raises(DataError, match=r"the file has 11000 rows, and had 12000 when its place was"):
        prepare(root)


def test_a_footer_with_a_defect_is_refused_before_any_signal_is_decoded(
    tmp_path: Path, competition_writer: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = competition_writer(tmp_path / "hms", patients=1)
    path = next((root / "train_spectrograms").iterdir())
    path.write_bytes(path.read_bytes()[:1_000])
    monkeypatch.setattr(decoder, "read_signal", lambda file: pytest.fail(f"decoded {file.path}"))
    with pytest.raises(DataError, match=rf"{path.name}: not a readable parquet file"):
        prepare(root)


def test_slices_of_a_killed_run_are_kept_wherever_they_lie(uneven: Path, tmp_path: Path) -> None:
    """Decoders finish in any order: what is written behind a gap counts as well."""
    target, partial = tmp_path / "store", tmp_path / "store.partial"
    _stop_after_the_arrays(uneven, target)
    journal = partial / write.JOURNAL
    lines = journal.read_text().splitlines(keepends=True)
    assert len(lines) == 38
    journal.write_text("".join(reversed(lines[5:17] + lines[20:])))
    with (partial / "eeg.f16").open("r+b") as stream:  # where the slices lay that are not in the journal
        stream.write(bytes(100_000))
    decoded = []
    with pytest.MonkeyPatch.context() as patch:
        original = decoder.read_signal
        patch.setattr(decoder, "read_signal", lambda file: decoded.append(file) or original(file))
        assert content_of(prepare(uneven, store=target, jobs=1)) == EXPECTED
    assert len(decoded) == 8


def _stop_after_the_arrays(root: Path, target: Path) -> None:
    script = (
        "import os, sys; from pathlib import Path; from hms_tune.data.store import prepare as module\n"
        "module.index_of = lambda *_: os._exit(9)\n"
        "module.prepare(Path(sys.argv[1]), store=Path(sys.argv[2]), jobs=1)\n"
    )
    assert subprocess.run([sys.executable, "-c", script, root, target], check=False).returncode == 9


def test_the_death_of_a_decoder_is_told_with_the_file_and_what_to_do(uneven: Path, tmp_path: Path) -> None:
    table = pd.DataFrame({"eeg_id": [3000], "spectrogram_id": [8000]})
    eeg, _ = list_signal_files(Competition.open(uneven), "test", table)
    dead = decoder.DecoderProcess(tmp_path, None)
    dead._process.kill()
    with pytest.raises(DataError, match=r"3000\.parquet: the process .* ended with status -9\. Run it again"):
        dead.write([Place(Source.of(eeg), 0, 10_000)])
    dead.close()
