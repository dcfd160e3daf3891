import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hms_tune.data.files.encoding import ABSOLUTE_ERROR, RELATIVE_ERROR
from hms_tune.data.labels import make_labels, unlabelled
from hms_tune.data.schema import EEG_COLUMNS, SPECTROGRAM_COLUMNS
from hms_tune.data.store import decoder
from hms_tune.data.store.prepare import prepare
from hms_tune.data.store.store import Manifest, Store, competition_of, store_path
from hms_tune.errors import DataError, StoreError

PREPARE_AND_DIE = """
import os, signal, sys
from pathlib import Path
from hms_tune.data.store.prepare import prepare

def progress(done, total):
    print(done, total, flush=True)
    if done == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)

prepare(Path(sys.argv[1]), store=Path(sys.argv[2]), jobs=int(sys.argv[4]), progress=progress)
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, competition_writer: Callable[..., Path]) -> Path:
    return competition_writer(tmp_path_factory.mktemp("prepare") / "hms", patients=3)


@pytest.fixture(scope="module")
def store(root: Path) -> Store:
    return prepare(root)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def entries(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_stored_eeg_is_the_file_around_its_centres_within_the_documented_bound(
    root: Path, store: Store
) -> None:
    for eeg_id, row in store.recordings.iterrows():
        table = pq.read_table(root / f"{row['split']}_eegs" / f"{eeg_id}.parquet")
        original = np.stack([table[name].to_numpy() for name in EEG_COLUMNS], axis=1).astype(np.float64)
        centre = row[[f"centre_{name}" for name in EEG_COLUMNS]].to_numpy(np.float64)
        second_means = np.delete(original, slice(2000, 2200), axis=0).reshape(-1, 200, 20).mean(axis=1)
        np.testing.assert_allclose(centre, np.median(second_means, axis=0), atol=2e-3)
        stored = store.eeg[row["start"] : row["start"] + row["length"]].astype(np.float64)
        assert stored.shape == original.shape
        assert np.isnan(stored).all(axis=1).nonzero()[0].tolist() == list(range(2000, 2050))
        centred = original - centre
        error = np.abs(stored - centred) - RELATIVE_ERROR * np.abs(centred) - ABSOLUTE_ERROR
        assert np.nanmax(error) < 2e-4  # the float32 of the file itself, at an offset of 2 mV


def test_stored_spectrogram_is_the_log_of_the_file(root: Path, store: Store) -> None:
    for spectrogram_id, row in store.spectrograms.iterrows():
        table = pq.read_table(root / f"{row['split']}_spectrograms" / f"{spectrogram_id}.parquet")
        power = np.stack([table[name].to_numpy() for name in SPECTROGRAM_COLUMNS], axis=1)
        stored = store.spectrogram[row["start"] : row["start"] + row["length"]].astype(np.float32)
        np.testing.assert_allclose(stored, np.log(np.maximum(power, 1e-6)), atol=2.0**-8)


def test_a_dead_channel_and_an_outlier_are_stored_and_counted(
    tmp_path: Path, competition_writer: Callable[..., Path]
) -> None:
    root = competition_writer(tmp_path / "hms", splits=("test",), test_recordings=1, spectrograms=False)
    path = root / "test_eegs" / "3000.parquet"
    table = pq.read_table(path)
    spiky = table["Fp1"].to_numpy().copy()
    spiky[5] = 1e6
    dead = pa.nulls(10_000, pa.float32())
    pq.write_table(table.set_column(0, "Fp1", pa.array(spiky)).set_column(19, "EKG", dead), path)
    store = prepare(root)
    assert store.eeg[5, 0] == 65_504
    assert store.manifest.clipped_samples == store.recordings.loc[3000, "clipped"] == 1
    assert np.isnan(store.eeg[:, 19]).all()
    assert store.recordings.loc[3000, "centre_EKG"] == 0.0
    assert np.isnan(store.eeg[:, :19]).any(axis=1).sum() == 50


def test_manifest_counts_what_the_store_holds(store: Store) -> None:
    assert store.manifest.recordings == {"train": 6, "test": 2}
    assert store.manifest.spectrograms == {"train": 6, "test": 2}
    assert store.manifest.n_samples == len(store.eeg) == 6 * 12_000 + 2 * 10_000
    assert store.manifest.n_frames == len(store.spectrogram) == 6 * 310 + 2 * 300
    assert len(store.train) == 12
    assert len(store.test) == 2


def test_a_current_store_is_opened_and_not_written_again(root: Path, store: Store) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in store.path.iterdir()}
    again = prepare(root, progress=lambda done, total: pytest.fail("nothing is left to do"))
    assert again.path == store.path
    assert {path.name: path.stat().st_mtime_ns for path in store.path.iterdir()} == before


def test_threads_do_not_change_a_byte(root: Path, store: Store, tmp_path: Path) -> None:
    one = prepare(root, store=tmp_path / "one", jobs=1)
    four = prepare(root, store=tmp_path / "four", jobs=4)
    assert contents(one.path) == contents(four.path)
    assert one.manifest.digest == store.manifest.digest


@pytest.mark.parametrize(("killed_after", "jobs"), [(1, 1), (16, 1), (5, 3)])
def test_a_killed_run_is_continued_to_the_same_bytes(
    root: Path, tmp_path: Path, killed_after: int, jobs: int
) -> None:
    undisturbed = prepare(root, store=tmp_path / "undisturbed" / "store", jobs=1)
    target = tmp_path / "killed" / "store"
    run = subprocess.run(
        [sys.executable, "-c", PREPARE_AND_DIE, root, target, str(killed_after), str(jobs)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == -signal.SIGKILL, run.stderr
    assert run.stdout.splitlines()[-1] == f"{killed_after} 16"
    assert not target.exists()
    decoded: list[int] = []
    resumed = _counting_decodes(decoded, root, target)
    assert contents(resumed.path) == contents(undisturbed.path)
    assert len(decoded) == 16 - killed_after
    assert entries(target.parent) == ["store", *(f"store/{name}" for name in contents(target))]


def _counting_decodes(decoded: list[int], root: Path, target: Path) -> Store:
    original = decoder.read_signal
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decoder, "read_signal", lambda file: decoded.append(1) or original(file))
        return prepare(root, store=target, jobs=1)


def test_a_slice_that_was_damaged_after_a_kill_is_decoded_again(root: Path, tmp_path: Path) -> None:
    target = tmp_path / "store"
    subprocess.run(
        [sys.executable, "-c", PREPARE_AND_DIE, root, target, "4", "1"], capture_output=True, check=False
    )
    with (tmp_path / "store.partial" / "eeg.f16").open("r+b") as stream:
        stream.seek(2 * 12_000 * 20 * 2 + 1_000)  # in the third recording
        stream.write(b"\x12\x34")
    with (tmp_path / "store.partial" / "journal.jsonl").open("a") as stream:
        stream.write('{"kind": "eeg", "split": "tra')  # torn by the kill
    decoded: list[int] = []
    resumed = _counting_decodes(decoded, root, target)
    assert len(decoded) == 13
    assert resumed.manifest.digest == prepare(root, store=tmp_path / "other").manifest.digest


def test_three_callers_at_once_prepare_once(root: Path, tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from hms_tune.data.store.prepare import prepare\n"
        "input()\n"
        "prepare(Path(sys.argv[1]), store=Path(sys.argv[2]), jobs=1, progress=lambda d, t: print(d))\n"
    )
    callers = [
        subprocess.Popen(
            [sys.executable, "-c", script, root, tmp_path / "store"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    for caller in callers:
        assert caller.stdin is not None
        caller.stdin.write("\n")
        caller.stdin.flush()
    outputs = [caller.communicate(timeout=60)[0] for caller in callers]
    assert [caller.returncode for caller in callers] == [0, 0, 0]
    assert sorted(len(output.splitlines()) for output in outputs) == [0, 0, 16]
    assert entries(tmp_path)[0] == "store"
    assert not (tmp_path / "store.lock").exists()


def add_recording(root: Path, eeg_id: int, like: int) -> None:
    """A copy of a recording as another one, whose identifier puts it in the midst of the others."""
    shutil.copy(root / "test_eegs" / f"{like}.parquet", root / "test_eegs" / f"{eeg_id}.parquet")
    shutil.copy(root / "test_spectrograms" / "8000.parquet", root / "test_spectrograms" / f"{eeg_id}.parquet")
    with (root / "test.csv").open("a") as stream:
        stream.write(f"{eeg_id},{eeg_id},999\n")


def test_files_that_are_added_or_changed_are_decoded_and_the_others_copied(
    tmp_path: Path, competition_writer: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    root = competition_writer(tmp_path / "hms", patients=2)
    prepare(root)
    add_recording(root, 2999, like=3001)
    os.utime(root / "train_eegs" / "1002.parquet")
    decoded: list[int] = []
    with caplog.at_level("INFO", logger="hms_tune"):
        store = _counting_decodes(decoded, root, root / "store")
    assert len(decoded) == 3
    assert "3 of 14 files are new or changed and are decoded, 11 are copied" in caplog.text
    anew = prepare(root, store=tmp_path / "anew")
    assert contents(store.path).keys() == contents(anew.path).keys()
    for name, content in contents(anew.path).items():
        assert name == "manifest.json" or contents(store.path)[name] == content
    assert store.manifest.digest == anew.manifest.digest
    assert store.recordings.index.tolist() == [1000, 1001, 1002, 1003, 2999, 3000, 3001]


def test_files_that_are_gone_or_labelled_anew_need_no_decoding(
    tmp_path: Path, competition_writer: Callable[..., Path]
) -> None:
    root = competition_writer(tmp_path / "hms", patients=2)
    prepare(root)
    table = root / "train.csv"
    lines = table.read_text().splitlines(keepends=True)
    table.write_text("".join(lines[:1] + lines[3:]))  # without the first recording
    decoded: list[int] = []
    store = _counting_decodes(decoded, root, root / "store")
    assert decoded == []
    assert len(store.train) == 6
    assert store.manifest.digest == prepare(root, store=tmp_path / "anew").manifest.digest
    table.write_text(table.read_text().replace(",10.0,", ",10.5,", 1))
    with pytest.raises(DataError, match=r"a labelled window ends at 60\.5 s, but the EEG ends at 60 s"):
        prepare(root)


def test_a_slice_that_is_damaged_in_the_older_store_is_decoded_and_not_copied(
    tmp_path: Path, competition_writer: Callable[..., Path]
) -> None:
    root = competition_writer(tmp_path / "hms", patients=2)
    prepare(root)
    with (root / "store" / "spectrogram.f16").open("r+b") as stream:
        stream.seek(500)
        stream.write(b"\x12\x34")
    add_recording(root, 2999, like=3001)
    decoded: list[int] = []
    store = _counting_decodes(decoded, root, root / "store")
    assert len(decoded) == 3
    assert store.manifest.digest == prepare(root, store=tmp_path / "anew").manifest.digest


def test_what_a_killed_run_wrote_before_the_first_new_file_is_kept(
    tmp_path: Path, competition_writer: Callable[..., Path]
) -> None:
    root = competition_writer(tmp_path / "hms", patients=2)
    target = tmp_path / "store"
    subprocess.run(
        [sys.executable, "-c", PREPARE_AND_DIE, root, target, "9", "1"], capture_output=True, check=False
    )
    add_recording(root, 2999, like=3001)  # the ninth of what are now 14 files
    decoded: list[int] = []
    store = _counting_decodes(decoded, root, target)
    assert len(decoded) == 6
    assert contents(store.path) == contents(prepare(root, store=tmp_path / "anew").path)


def test_the_room_a_store_takes_is_told_before_it_is_written(
    root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        assert "the store takes 0.01 GiB, the disk has" in caplog.text
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("hms_tune.data.store.prepare.write_signals", refuse)
    with caplog.at_level("INFO", logger="hms_tune"), pytest.raises(StoreError):
        prepare(root, store=tmp_path / "store")


def test_a_changed_file_makes_the_store_anew(tmp_path: Path, competition_writer: Callable[..., Path]) -> None:
    root = competition_writer(tmp_path / "hms", patients=2, test_recordings=1)
    before = prepare(root)
    first = before.eeg[0].copy()
    path = root / "train_eegs" / "1000.parquet"
    table = pq.read_table(path)
    column = pa.array(table["Fp1"].to_numpy() * 2)
    pq.write_table(table.set_column(0, "Fp1", column), path)
    after = prepare(root)
    assert after.manifest.source != before.manifest.source
    assert after.manifest.digest != before.manifest.digest
    assert after.eeg[0, 0] == pytest.approx(2 * first[0], rel=2e-3)
    assert before.eeg[0, 0] == first[0]  # whoever has the old one open keeps it
    assert not list(root.glob("store.*"))


def test_equal_data_in_another_place_have_an_equal_digest(root: Path, store: Store, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(root, copy, ignore=shutil.ignore_patterns("store"))
    os.utime(copy / "train_eegs" / "1000.parquet", ns=(1, 1))
    prepared = prepare(copy)
    assert prepared.manifest.digest == store.manifest.digest
    assert prepared.manifest.source != store.manifest.source
    assert Store.open(copy).root == copy


@pytest.mark.parametrize("splits", [("train",), ("test",)])
def test_one_split_alone_is_enough(
    tmp_path: Path, competition_writer: Callable[..., Path], splits: tuple[str, ...]
) -> None:
    root = competition_writer(tmp_path / "hms", patients=2, splits=splits, spectrograms=False)
    store = prepare(root)
    assert store.manifest.spectrograms == {"train": 0, "test": 0}
    assert store.spectrogram.shape == (0, 400)
    if splits == ("train",):
        assert len(make_labels(store.train)) == 4
        assert len(unlabelled(store.test)) == 0
    else:
        assert store.train.empty
        assert unlabelled(store.test).eeg_id.tolist() == [3000, 3001]


def test_a_root_that_is_not_to_be_written_to_has_its_store_at_home(
    tmp_path: Path, competition_writer: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HMS_TUNE_HOME", str(tmp_path / "home"))
    root = competition_writer(tmp_path / "hms", splits=("test",), spectrograms=False)
    root.chmod(0o555)
    try:
        store = prepare(root)
        assert store.path.parent == tmp_path / "home" / "stores"
        assert Store.open(root).path == store.path == store_path(root)
        assert Store.open(root).root == root
    finally:
        root.chmod(0o755)


def test_a_store_elsewhere_is_named_in_place_of_its_folder_and_does_without_it(
    tmp_path: Path, competition_writer: Callable[..., Path]
) -> None:
    root = competition_writer(tmp_path / "hms", patients=2, spectrograms=False)
    made = prepare(root, store=tmp_path / "fast" / "store")
    assert not (root / "store").exists()
    again = prepare(made.path)
    assert (again.path, again.root) == (made.path, root)
    assert competition_of(made.path) == competition_of(root) == root
    table = pd.read_csv(root / "train.csv")
    table.iloc[:-1].to_csv(root / "train.csv", index=False)
    assert len(prepare(made.path).train) == len(table) - 1  # the folder changed, and so the store
    root.rename(tmp_path / "gone")
    assert len(prepare(made.path).train) == len(table) - 1
    assert not root.exists()


def test_bad_content_found_late_leaves_nothing_behind(
    tmp_path: Path, competition_writer: Callable[..., Path]
) -> None:
    root = competition_writer(tmp_path / "hms", patients=2, nan_gap=False)
    path = root / "train_eegs" / "1003.parquet"
    endless = np.full(12_000, np.inf, dtype=np.float32)
    pq.write_table(pa.table(dict.fromkeys(EEG_COLUMNS, endless)), path)
    before = entries(tmp_path)
    with pytest.raises(DataError, match=r"1003\.parquet, column Fp1: row 0 is infinite"):
        prepare(root, store=tmp_path / "new" / "folder" / "store")
    with pytest.raises(DataError, match="row 0 is infinite"):
        prepare(root)
    assert entries(tmp_path) == before


def test_a_folder_that_is_no_store_is_never_replaced(root: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(StoreError, match="is there already and is not a store"):
        prepare(root, store=tmp_path)
    assert entries(tmp_path) == ["thesis.tex"]


def test_a_disk_without_room_is_refused_before_anything_is_written(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=2**20)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(StoreError, match=r"the store takes 0\.\d\d GiB, the disk has 0\.00 GiB free"):
        prepare(root, store=tmp_path / "store")
    assert entries(tmp_path) == []


def test_a_disk_that_fills_up_is_one_clear_error_and_leaves_nothing(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(handle: int, content: bytes, offset: int) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(decoder.os, "pwrite", full)
    with pytest.raises(
        StoreError, match=r"cannot be written: No space left on device\. Name a writable place"
    ):
        prepare(root, store=tmp_path / "store")
    assert entries(tmp_path) == []


def test_a_damaged_store_is_named_when_opened_and_mended_by_preparing(root: Path, tmp_path: Path) -> None:
    target = prepare(root, store=tmp_path / "store").path
    with (target / "eeg.f16").open("r+b") as stream:
        stream.truncate(1_000)
    with pytest.raises(StoreError, match=r"the store is damaged: eeg\.f16 has 1000 bytes"):
        Store.open(target)
    assert len(prepare(root, store=target).eeg) == 92_000
    (target / "manifest.json").write_text("{")
    with pytest.raises(StoreError, match="the manifest is damaged") as caught:
        Store.open(target)
    assert caught.value.hint is not None
    assert str(target) in caught.value.hint
    (target / "manifest.json").write_text('{"format_version": 99}')
    with pytest.raises(StoreError, match="the store has format 99"):
        Manifest.read(target)
    assert len(prepare(root, store=target).eeg) == 92_000


def test_a_folder_without_a_store_says_how_to_make_one(tmp_path: Path) -> None:
    folder = tmp_path / "my data"
    with pytest.raises(StoreError, match="not a store") as caught:
        Store.open(folder)
    assert caught.value.hint == f"hms-tune data prepare '{folder}'"
