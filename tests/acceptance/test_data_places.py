"""Every command that takes a data folder takes a store's path, and leaves a closed folder alone."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import hms_tune
from hms_tune.cli import doctor
from hms_tune.config.study_file import StudyFile
from hms_tune.data.soft_labels import SoftLabels, soft_labels_path
from hms_tune.data.store.prepare import prepare
from hms_tune.database.connect import Storage
from hms_tune.worker.open_study import open_search

Run = Callable[..., tuple[int, str]]

STUDY = """
study: placed
data: {folds: 2, holdout: 0.0}
input: {eeg: {name: stft, n_fft: 256}, image: [32, 64], channels: 1}
model: {backbone: test_resnet, pretrained: false, dropout: {low: 0.0, high: 0.5}}
training: {epochs: 1, batch_size: 8}
search: {sampler: random, pruner: none}
budget: {trials: 1}
tracking: {wandb: {mode: off}}
"""

COMMANDS = {
    "data check": "data check DATA --quick",
    "data folds": "data folds DATA",
    "data show": "data show DATA 1000 --out window.png",
    "data report": "data report DATA --quick --out report.html",
    "data prepare": "data prepare DATA",
    "data label": "data label BUNDLE DATA --name soft --most-votes 99 --device cpu",
    "study check": "study check placed.yaml --data DATA --device cpu",
    "doctor": "doctor --data DATA",
    "train": "train placed.yaml --set model.dropout=0.1 --data DATA --out trained --device cpu",
    "export-best": "export-best placed --data DATA --out exported --device cpu",
    "predict": "predict BUNDLE DATA --out submission.csv --device cpu",
    "worker": "worker placed.yaml --data DATA --device cpu",
}

DO_WITHOUT = ("data prepare", "data label", "study check", "doctor", "train", "export-best", "worker")
"""Commands to which the store alone is enough."""

SLOW = ("worker",)

each_command = pytest.mark.parametrize(
    "command", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in COMMANDS]
)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, competition_writer: Callable[..., Path]) -> Path:
    return competition_writer(tmp_path_factory.mktemp("placed") / "hms", patients=6, seconds=51)


@pytest.fixture(scope="module")
def bundle(root: Path, tmp_path_factory: pytest.TempPathFactory, module_patch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.mktemp("bundle")
    (folder / "placed.yaml").write_text(STUDY)
    copy = shutil.copytree(root, folder / "hms")
    values = {"model.dropout": 0.1}
    exported = hms_tune.train(folder / "placed.yaml", copy, folder / "bundle", values=values, device="cpu")
    return exported.path


@pytest.fixture(scope="module")
def module_patch() -> Iterator[pytest.MonkeyPatch]:
    """Exports write no graph: it takes longer than all else."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hms_tune.export.export._onnx", lambda *_: None)
        yield patch


@pytest.fixture(scope="module")
def storage(storage: Storage) -> Storage:
    """The server, with the study, one of whose trials is complete."""
    study = open_search(storage, StudyFile.parse(STUDY, "placed.yaml")).study
    trial = study.ask()
    trial.suggest_float("model.dropout", 0.0, 0.5)
    study.tell(trial, 0.5)
    return storage


@pytest.fixture
def run(
    hms_tune: Run, tmp_path: Path, home: Path, storage: Storage, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str, Path], None]:
    (tmp_path / "placed.yaml").write_text(STUDY)
    monkeypatch.setenv("HMS_TUNE_HOME", str(home))

    def run(command: str, data: Path) -> None:
        stands_for = {"DATA": str(data), "BUNDLE": str(bundle)}
        code, said = hms_tune(*(stands_for.get(word, word) for word in COMMANDS[command].split()))
        assert code == 0, said

    return run


def listed(folder: Path) -> set[Path]:
    return {path.relative_to(folder) for path in folder.rglob("*")}


@pytest.mark.slow
@each_command
def test_a_folder_that_is_not_to_be_written_to_stays_as_it_is(
    run: Callable[[str, Path], None], command: str, root: Path, home: Path
) -> None:
    before = listed(root)
    root.chmod(0o555)
    try:
        run(command, root)
    finally:
        root.chmod(0o755)
    assert listed(root) == before
    if command == "data label":
        labels = soft_labels_path(root, "soft")
        assert labels.is_relative_to(home / "soft_labels")
        assert len(SoftLabels.read(labels).eeg_id) == 12
        labels.unlink()


@pytest.mark.slow
@each_command
def test_a_store_is_named_in_place_of_its_folder(
    run: Callable[[str, Path], None], command: str, root: Path, tmp_path: Path
) -> None:
    store = prepare(root, store=tmp_path / "fast" / "store", jobs=1).path
    run(command, store)
    assert not (root / "store").exists()
    shutil.rmtree(root / "soft_labels", ignore_errors=True)


@pytest.mark.parametrize(
    "command", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in DO_WITHOUT]
)
def test_a_store_whose_folder_is_gone_is_enough(
    run: Callable[[str, Path], None], command: str, root: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(root, tmp_path / "hms")
    store = prepare(copy, store=tmp_path / "fast" / "store", jobs=1).path
    shutil.rmtree(copy)
    run(command, store)
    assert not copy.exists()


def test_doctor_warns_of_a_test_half_that_keeps_nobody_from_training(
    tmp_path: Path, competition_writer: Callable[..., Path]
) -> None:
    root = competition_writer(tmp_path / "hms", patients=2, spectrograms=False)
    (root / "test.csv").unlink()
    found = doctor._data(root)
    assert found.state == "warn"
    assert found.detail.startswith(f"{root} (train); {root / 'test.csv'}: the file is missing")
    (root / "train.csv").unlink()
    assert doctor._data(root).state == "fail"
