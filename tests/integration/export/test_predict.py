"""Predicting a competition folder: what is read, what comes out, and what is left behind."""

from __future__ import annotations

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
import torch
from bundles import write_bundle
from full_disk import FullDisk

from hms_tune.data.files import decoding
from hms_tune.data.files.threads import ordered
from hms_tune.data.labels import make_labels, unlabelled
from hms_tune.data.store.prepare import prepare
from hms_tune.data.store.store import Store
from hms_tune.data.store.windows import WindowSource
from hms_tune.errors import DataError, HmsTuneError
from hms_tune.export.bundle import load_bundle
from hms_tune.export.predict import predict
from hms_tune.export.submission import write_submission
from hms_tune.training.images.images import make_images
from hms_tune.training.step.inference import predict_probabilities

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bundles")
    return {
        "eeg": write_bundle(folder / "eeg"),
        "spectrogram": write_bundle(folder / "spectrogram", eeg=False, kaggle=True),
        "both": write_bundle(folder / "both", kaggle=True),
    }


def rewrite(path: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    pq.write_table(change(pq.read_table(path)), path)


def odd_but_sound(root: Path) -> Path:
    """Every oddity that is a warning and changes what is read: lengths, types, order of columns, clipping."""
    rewrite(root / "test_eegs/3000.parquet", lambda table: pa.concat_tables([table, table.slice(0, 2000)]))
    rewrite(root / "test_eegs/3001.parquet", lambda table: table.select(table.column_names[::-1]))
    rewrite(
        root / "test_eegs/3002.parquet",
        lambda table: table.set_column(0, "Fp1", pa.array(np.linspace(-9e4, 9e4, len(table)))),
    )
    rewrite(root / "test_spectrograms/8000.parquet", lambda table: table.slice(0, 200))
    rewrite(root / "test_spectrograms/8001.parquet", lambda table: pa.concat_tables([table, table]))
    rewrite(root / "train_spectrograms/5003.parquet", lambda table: table.slice(0, 250))
    return root


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, competition_writer: Callable[..., Path]) -> Path:
    folder = tmp_path_factory.mktemp("competition") / "root"
    return odd_but_sound(competition_writer(folder, patients=4, test_recordings=7))


@pytest.fixture(scope="module")
def store(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Store:
    return prepare(root, store=tmp_path_factory.mktemp("prepared") / "store", jobs=1)


@pytest.mark.parametrize("batch_size", [None, 3])
@pytest.mark.parametrize("split", ["test", "train"])
@pytest.mark.parametrize("reads", ["eeg", "spectrogram", "both"])
def test_a_submission_is_bit_for_bit_that_of_the_prepared_store(
    reads: str,
    split: str,
    batch_size: int | None,
    bundles: dict[str, Path],
    root: Path,
    store: Store,
    tmp_path: Path,
) -> None:
    bundle = load_bundle(bundles[reads], device="cpu")
    rows = unlabelled(store.test) if split == "test" else make_labels(store.train, rows="eeg", min_votes=1)
    source = WindowSource(store, rows, bundle.device)
    expected = predict_probabilities(
        bundle.networks,
        lambda index: make_images(source, bundle.transform, index),
        torch.arange(len(rows)),
        training=bundle.config.config.training,
        device=bundle.device,
        batch_size=batch_size,
    )
    assert len(np.unique(expected, axis=0)) == len(rows) == {"test": 7, "train": 8}[split]
    wanted = write_submission(tmp_path / "wanted.csv", rows.eeg_id, expected).read_bytes()
    out = tmp_path / "submission.csv"
    predict(load_bundle(bundles[reads], device="cpu"), root, split=split, out=out, batch_size=batch_size)
    assert out.read_bytes() == wanted
    assert pd.read_csv(out)["eeg_id"].tolist() == rows.eeg_id.tolist()


def test_so_many_are_decoded_ahead_and_no_more() -> None:
    begun: list[int] = []
    handed_out: list[int] = []

    def work(task: int) -> int:
        begun.append(task)
        return task

    results = ordered(work, range(100), jobs=2, ahead=8)
    for result in results:
        assert len(begun) <= len(handed_out) + 9  # the eight that wait, and the one that is handed over
        handed_out.append(result)
    assert handed_out == list(range(100))


def test_when_a_file_is_refused_those_behind_it_are_not_begun() -> None:
    begun: list[int] = []

    def work(task: int) -> int:
        begun.append(task)
        if task == 2:
            raise DataError("spoilt")
        return task

    with pytest.raises(DataError, match="spoilt"):
        list(ordered(work, range(100), jobs=1, ahead=4))
    assert max(begun) <= 2 + 4


@pytest.fixture
def fresh(competition_writer: Callable[..., Path], tmp_path: Path) -> Path:
    return competition_writer(tmp_path / "fresh", patients=2, test_recordings=3)


def spoil_files(root: Path) -> None:
    for path in (root / "train_eegs").iterdir():
        path.write_bytes(path.read_bytes()[:1000])


def spoil_table(root: Path) -> None:
    (root / "train.csv").write_bytes(b"eeg_id;votes\n1;\xff\n")


def remove_files(root: Path) -> None:
    shutil.rmtree(root / "train_eegs")
    shutil.rmtree(root / "train_spectrograms")


def remove_half(root: Path) -> None:
    remove_files(root)
    (root / "train.csv").unlink()


@pytest.mark.parametrize("spoil", [spoil_files, spoil_table, remove_files, remove_half])
def test_whatever_is_wrong_with_the_train_half_the_test_half_is_predicted(
    spoil: Callable[[Path], None], bundles: dict[str, Path], fresh: Path, tmp_path: Path
) -> None:
    sound = predict(
        load_bundle(bundles["both"], device="cpu"), fresh, out=tmp_path / "sound.csv"
    ).read_bytes()
    spoil(fresh)
    assert (
        predict(load_bundle(bundles["both"], device="cpu"), fresh, out=tmp_path / "out.csv").read_bytes()
        == sound
    )


def test_whatever_is_wrong_with_the_test_half_the_train_half_is_predicted(
    bundles: dict[str, Path], fresh: Path, tmp_path: Path
) -> None:
    (fresh / "test.csv").write_text("nonsense")
    shutil.rmtree(fresh / "test_eegs")
    out = predict(load_bundle(bundles["both"], device="cpu"), fresh, split="train", out=tmp_path / "out.csv")
    assert pd.read_csv(out)["eeg_id"].tolist() == [1000, 1001, 1002, 1003]


def test_no_file_is_opened_but_those_that_are_predicted(
    bundles: dict[str, Path], fresh: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    read = decoding._opened
    monkeypatch.setattr(decoding, "_opened", lambda file: opened.append(file.path.name) or read(file))
    predict(load_bundle(bundles["eeg"], device="cpu"), fresh, out=tmp_path / "submission.csv")
    assert sorted(opened) == ["3000.parquet", "3001.parquet", "3002.parquet"]
    opened.clear()
    predict(load_bundle(bundles["both"], device="cpu"), fresh, out=tmp_path / "submission.csv")
    assert sorted(opened) == [f"{each}.parquet" for each in (3000, 3001, 3002, 8000, 8001, 8002)]


def test_a_damaged_spectrogram_is_nothing_to_a_model_of_eeg(
    bundles: dict[str, Path], fresh: Path, tmp_path: Path
) -> None:
    (fresh / "test_spectrograms/8001.parquet").write_bytes(b"")
    assert predict(
        load_bundle(bundles["eeg"], device="cpu"), fresh, out=tmp_path / "submission.csv"
    ).is_file()
    with pytest.raises(DataError, match=r"8001\.parquet: the file is empty, 0 bytes"):
        predict(load_bundle(bundles["both"], device="cpu"), fresh, out=tmp_path / "other.csv")
    assert not (tmp_path / "other.csv").exists()


def infinite(root: Path) -> None:
    values = pq.read_table(root / "test_eegs/3001.parquet").to_pandas()
    values.loc[17, "Cz"] = np.inf
    values.to_parquet(root / "test_eegs/3001.parquet", index=False)


def without_a_channel(root: Path) -> None:
    rewrite(root / "test_eegs/3002.parquet", lambda table: table.drop_columns(["Cz", "Pz"]))


def too_short(root: Path) -> None:
    rewrite(root / "test_eegs/3000.parquet", lambda table: table.slice(0, 9_999))


def cut_short(root: Path) -> None:
    path = root / "test_eegs/3000.parquet"
    path.write_bytes(path.read_bytes()[:5000])


def negative_power(root: Path) -> None:
    values = pq.read_table(root / "test_spectrograms/8002.parquet").to_pandas()
    values.iloc[5, 7] = -1.0
    values.to_parquet(root / "test_spectrograms/8002.parquet", index=False)


def missing(root: Path) -> None:
    (root / "test_eegs/3001.parquet").unlink()
    (root / "test_spectrograms/8002.parquet").unlink()


def repeated_row(root: Path) -> None:
    table = pd.read_csv(root / "test.csv")
    pd.concat([table, table.iloc[:1]]).to_csv(root / "test.csv", index=False)


def empty_table(root: Path) -> None:
    (root / "test.csv").write_text("spectrogram_id,eeg_id,patient_id\n")


def no_folder(root: Path) -> None:
    shutil.rmtree(root / "test_eegs")


@pytest.mark.parametrize(
    "spoil",
    [
        *(without_a_channel, too_short, cut_short),
        *(missing, repeated_row, empty_table, no_folder),
    ],
)
def test_a_defect_of_the_test_half_is_told_in_the_words_of_prepare(
    spoil: Callable[[Path], None], bundles: dict[str, Path], fresh: Path, tmp_path: Path
) -> None:
    spoil(fresh)
    with pytest.raises(DataError) as predicted:
        predict(load_bundle(bundles["both"], device="cpu"), fresh, out=tmp_path / "submission.csv")
    for train in fresh.glob("train*"):  # with it, prepare would leave the test half out
        shutil.rmtree(train) if train.is_dir() else train.unlink()
    with pytest.raises(DataError) as prepared:
        prepare(fresh, store=tmp_path / "store", jobs=1)
    assert str(predicted.value) == str(prepared.value)
    assert not (tmp_path / "submission.csv").exists()


@pytest.mark.parametrize("spoil", [infinite, negative_power])
def test_a_test_file_that_prepare_leaves_out_is_refused_in_the_same_words(
    spoil: Callable[[Path], None],
    bundles: dict[str, Path],
    fresh: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    spoil(fresh)
    with pytest.raises(DataError) as predicted:
        predict(load_bundle(bundles["both"], device="cpu"), fresh, out=tmp_path / "submission.csv")
    prepare(fresh, store=tmp_path / "store", jobs=1)
    assert f"refuse: 1; {predicted.value.where}: {predicted.value.what}" in caplog.text
    assert not (tmp_path / "submission.csv").exists()


@pytest.mark.slow
def test_a_read_only_folder_is_predicted_without_a_temporary_folder_or_a_cache(
    bundles: dict[str, Path], fresh: Path, tmp_path: Path
) -> None:
    before = sorted(fresh.rglob("*"))
    for folder in (fresh, *(each for each in before if each.is_dir())):
        folder.chmod(0o555)
    (tmp_path / "work").mkdir()
    nowhere = str(tmp_path / "nowhere")
    done = subprocess.run(
        [sys.executable, "-m", "hms_tune", "predict", bundles["both"], fresh, "--device", "cpu"],
        cwd=tmp_path / "work",
        env=os.environ | {"TMPDIR": nowhere, "HMS_TUNE_HOME": nowhere, "XDG_CACHE_HOME": nowhere},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "submission.csv\n"), done.stderr
    assert len(pd.read_csv(tmp_path / "work/submission.csv")) == 3
    assert sorted(fresh.rglob("*")) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fresh", "work"]


def with_default_signals() -> None:
    """Whatever started the tests may have these ignored: nohup, or a shell for what runs behind."""
    for number in (signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)


SIGNALLED = """
import os, signal, sys
from pathlib import Path
import pandas as pd
from hms_tune.data.files import half
from hms_tune.cli.main import main

number = signal.Signals[sys.argv[1]]
decode, when = half.read_signal, sys.argv[2]

signals = iter([number])  # one is sent; a second would end the process on its way out

def signalled(file):
    for each in signals:
        os.kill(os.getpid(), each)
    return decode(file)

def half_written(table, path, **options):
    Path(path).write_text("eeg_id,seizure_")
    os.kill(os.getpid(), number)
    Path(path).write_text("not reached")

if when == "decoding":
    half.read_signal = signalled
else:
    pd.DataFrame.to_csv = half_written
sys.argv = ["hms-tune", "predict", *sys.argv[3:], "--device", "cpu"]
main()
"""


@pytest.mark.parametrize(
    ("name", "when"),
    [("SIGINT", "decoding"), ("SIGTERM", "decoding"), ("SIGTERM", "writing"), ("SIGHUP", "writing")],
)
@pytest.mark.slow
def test_interrupted_or_terminated_it_leaves_nothing_behind(
    name: str, when: str, bundles: dict[str, Path], fresh: Path, tmp_path: Path
) -> None:
    work = tmp_path / "work"
    temporary = work / "tmp"
    temporary.mkdir(parents=True)
    (work / "submission.csv").write_text("yesterday's")
    places = {"TMPDIR": temporary, "HMS_TUNE_HOME": work / "home", "TORCHINDUCTOR_CACHE_DIR": tmp_path}
    done = subprocess.run(
        [sys.executable, "-c", SIGNALLED, name, when, bundles["both"], fresh],
        cwd=work,
        env=os.environ | {name: str(path) for name, path in places.items()},
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=with_default_signals,
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")
    assert sorted(path.name for path in work.rglob("*")) == ["submission.csv", "tmp"]
    assert (work / "submission.csv").read_text() == "yesterday's"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fresh", "work"]


def test_a_full_disk_is_one_line_and_leaves_the_old_submission(
    bundles: dict[str, Path], fresh: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out" / "submission.csv"
    out.parent.mkdir()
    out.write_text("yesterday's")
    look = FullDisk(out.parent)
    with look.mounted():
        predict(load_bundle(bundles["eeg"], device="cpu"), fresh, out=out)
    assert look.calls
    out.write_text("yesterday's")
    for call in look.calls:
        with FullDisk(out.parent, call).mounted(), pytest.raises(HmsTuneError) as refused:
            predict(load_bundle(bundles["eeg"], device="cpu"), fresh, out=out)
        assert str(refused.value) == (
            f"{out}: cannot be written: No space left on device. Free some room, or choose another --out"
        )
        assert [path.name for path in out.parent.iterdir()] == ["submission.csv"]
        assert out.read_text() == "yesterday's"


def test_progress_tells_of_every_window_from_the_start(
    bundles: dict[str, Path], root: Path, tmp_path: Path
) -> None:
    told: list[tuple[int, int]] = []
    predict(
        load_bundle(bundles["eeg"], device="cpu"),
        root,
        out=tmp_path / "submission.csv",
        batch_size=3,
        progress=lambda *both: told.append(both),
    )
    assert told == [(0, 7), (3, 7), (6, 7), (7, 7)]
