"""From a trial to a bundle, and from a bundle to predictions, over real files."""

from __future__ import annotations

import json
import os
import pickle
import resource
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from bundles import no_graph, onnx_difference, sealed

import hms_tune
from hms_tune.config.trial import TrialConfig
from hms_tune.data.schema import EEG_COLUMNS, SPECTROGRAM_COLUMNS, VOTE_COLUMNS
from hms_tune.data.store.store import Store
from hms_tune.errors import BundleError, DataError, SignalError, UsageError
from hms_tune.export.bundle import file_digest, load_bundle, load_network
from hms_tune.export.export import Exported, Winner, export_best
from hms_tune.export.onnx import OnnxUnavailableError, export_onnx
from hms_tune.export.out_of_fold import OutOfFoldTable, read_out_of_fold
from hms_tune.export.predict import predict
from hms_tune.export.scores import read_scores
from hms_tune.export.test_time import swapped
from hms_tune.training.events import Event, FoldEnded
from hms_tune.training.scores import kl_divergence
from hms_tune.training.trial_data import TrialData
from hms_tune.training.workspace import Workspace

pytestmark = pytest.mark.usefixtures("one_thread")

REAL_EEG = Path(__file__).parents[3].parent / "shared" / "real_eeg"


def make_config(backbone: str, *, kaggle: bool) -> TrialConfig:
    return TrialConfig.model_validate(
        {
            "data": {"folds": 2, "holdout": 0.2},
            "input": {
                "eeg": {"name": "stft", "n_fft": 256},
                "kaggle": "kaggle" if kaggle else None,
                "image": [32, 64],
            },
            "model": {"backbone": backbone, "pretrained": False},
            "training": {"epochs": 2, "batch_size": 8, "scheduler": "constant", "seed": 3},
        }
    )


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, competition_writer: Callable[..., Path]) -> Path:
    return competition_writer(tmp_path_factory.mktemp("competition") / "root", patients=8, test_recordings=3)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, store: Store) -> Exported:
    winner = Winner(study="tiny", number=5, config=make_config("test_resnet", kaggle=True), value=1.5)
    out = tmp_path_factory.mktemp("bundles") / "tiny-5"
    return export_best(winner, store, out, device="cpu", refit="full")


@pytest.fixture(scope="module")
def eeg_only(tmp_path_factory: pytest.TempPathFactory, store: Store) -> Exported:
    config = make_config("test_efficientnet", kaggle=False)
    winner = Winner(study="tiny", number=6, config=config, value=None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hms_tune.export.export.export_onnx", no_graph)
        return export_best(winner, store, tmp_path_factory.mktemp("bundles") / "tiny-6", device="cpu")


@pytest.fixture
def copy(exported: Exported, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported.path, tmp_path / "copy"))


def test_a_bundle_holds_what_it_promises_and_nothing_else(exported: Exported) -> None:
    names = {path.name for path in exported.path.iterdir()}
    assert names == {
        "README.md",
        "config.json",
        "fold_0.safetensors",
        "fold_1.safetensors",
        "full.safetensors",
        "metrics.json",
        "model.onnx",
        "oof.parquet",
        "oof_swap.parquet",
    }
    assert [path.name for path in exported.path.parent.iterdir()] == ["tiny-5"]
    config = json.loads((exported.path / "config.json").read_text())
    assert config["files"]["model.onnx"] == file_digest(exported.path / "model.onnx")
    assert set(config["files"]) == names - {"config.json"}


def test_scores_are_those_of_the_out_of_fold_rows(exported: Exported, store: Store) -> None:
    table = pd.read_parquet(exported.path / "oof.parquet")
    assert list(table.columns[:4]) == ["row", "eeg_id", "patient_id", "seizure_probability"]
    assert list(table.columns[-2:]) == ["other_target", "fold"]
    probabilities = table.filter(like="_probability").to_numpy()
    targets = table.filter(like="_target").to_numpy()
    scores = exported.scores
    assert scores.kl_all_rows == pytest.approx(kl_divergence(targets, probabilities), abs=1e-9)
    folds = [table["fold"].to_numpy() == fold for fold in range(2)]
    by_fold = [kl_divergence(targets[rows], probabilities[rows]) for rows in folds]
    assert scores.fold_kl == pytest.approx(by_fold, abs=1e-9)
    assert scores.kl == pytest.approx(np.mean(by_fold), abs=1e-9)
    priors = [
        kl_divergence(targets[rows], np.tile(targets[~rows].mean(axis=0), (rows.sum(), 1))) for rows in folds
    ]
    assert scores.prior_kl == pytest.approx(np.mean(priors), abs=1e-6)
    assert len(table) + scores.held_out_rows == store.train["eeg_id"].nunique()
    assert scores.high_vote_rows == len(table)
    metrics = json.loads((exported.path / "metrics.json").read_text())
    assert metrics["held_out_kl"] == scores.held_out_kl
    assert metrics["search_kl"] == 1.5
    assert read_scores(exported.path) == scores
    card = (exported.path / "README.md").read_text()
    assert f"{scores.kl:.4f}" in card
    assert f"{scores.held_out_prior_kl:.4f}" in card


def test_out_of_fold_predictions_are_those_of_the_written_weights(exported: Exported, store: Store) -> None:
    bundle = load_bundle(exported.path, device="cpu")
    table = pd.read_parquet(exported.path / "oof.parquet")
    data = Workspace(store, torch.device("cpu")).trial_data(bundle.config.config)
    for fold, network in enumerate(bundle.networks):
        _, rows = data.fold_rows(fold)
        with torch.no_grad():
            expected = network(data.images.clean(torch.from_numpy(rows))).softmax(dim=1).numpy()
        of_fold = table[table["fold"] == fold].filter(like="_probability").to_numpy()
        assert np.abs(of_fold - expected).max() < 1e-6


def test_out_of_fold_predictions_with_hemispheres_swapped_lie_beside_them(
    exported: Exported, store: Store
) -> None:
    bundle = load_bundle(exported.path, device="cpu")
    data = Workspace(store, torch.device("cpu")).trial_data(bundle.config.config)
    plain, swap = (read_out_of_fold(exported.path, which) for which in ((), ("swap",)))
    assert np.array_equal(plain.patient_id, swap.patient_id)
    _, rows = data.fold_rows(0)
    with torch.no_grad():
        mirrored = bundle.networks[0](data.images.changed(torch.from_numpy(rows), swapped)).softmax(dim=1)
    expected = (mirrored.numpy() + plain.probabilities[_places(data, plain, rows)]) / 2
    assert np.abs(swap.probabilities[_places(data, plain, rows)] - expected).max() < 1e-6


def _places(data: TrialData, table: OutOfFoldTable, rows: np.ndarray) -> list[int]:
    """Where rows of a trial's labels stand in a table of its out-of-fold predictions."""
    at = {eeg: place for place, eeg in enumerate(table.eeg_id)}
    return [at[eeg] for eeg in data.labels.eeg_id[rows]]


def test_the_onnx_graph_gives_the_ensembles_probabilities(exported: Exported, store: Store) -> None:
    assert exported.onnx is not None
    assert exported.onnx.max_abs_difference < 1e-5
    bundle = load_bundle(exported.path, device="cpu")
    data = Workspace(store, torch.device("cpu")).trial_data(bundle.config.config)
    for rows in (torch.arange(1), torch.arange(7)):
        assert onnx_difference(exported.path, bundle, data.images.clean(rows)) < 1e-5


def test_another_kind_of_network_has_a_graph_too(eeg_only: Exported, store: Store, tmp_path: Path) -> None:
    bundle = load_bundle(eeg_only.path, device="cpu")
    images = (
        Workspace(store, torch.device("cpu")).trial_data(bundle.config.config).images.clean(torch.arange(7))
    )
    check = export_onnx(bundle.networks[:1], "kl", images, tmp_path / "model.onnx")
    assert check.max_abs_difference < 1e-5  # of one image and of seven


def test_python_and_command_predict_the_same(exported: Exported, root: Path, tmp_path: Path) -> None:
    out = predict(load_bundle(exported.path, device="cpu"), root, out=tmp_path / "submission.csv")
    table = pd.read_csv(out)
    assert list(table.columns) == ["eeg_id", *VOTE_COLUMNS]
    assert table["eeg_id"].tolist() == [3000, 3001, 3002]
    assert np.abs(table[list(VOTE_COLUMNS)].sum(axis=1) - 1).max() < 1e-6
    eeg = [
        pd.read_parquet(root / f"test_eegs/{eeg_id}.parquet")[list(EEG_COLUMNS)]
        for eeg_id in (3000, 3001, 3002)
    ]
    spectrogram = [
        pd.read_parquet(root / f"test_spectrograms/{each}.parquet")[list(SPECTROGRAM_COLUMNS)]
        for each in (8000, 8001, 8002)
    ]
    bundle = hms_tune.load_bundle(exported.path)
    found = bundle.predict(np.stack(eeg), np.stack(spectrogram), batch_size=2)
    assert found.dtype == np.float32
    assert np.abs(found - table[list(VOTE_COLUMNS)].to_numpy()).max() < 1e-5


def test_one_window_is_predicted_from_an_array_a_table_or_a_file(exported: Exported, root: Path) -> None:
    bundle = hms_tune.load_bundle(exported.path)
    paths = root / "test_eegs/3000.parquet", root / "test_spectrograms/8000.parquet"
    tables = [pd.read_parquet(path) for path in paths]
    arrays = [
        table[list(names)].to_numpy()
        for table, names in zip(tables, (EEG_COLUMNS, SPECTROGRAM_COLUMNS), strict=True)
    ]
    expected = bundle.predict(*(each[np.newaxis] for each in arrays))
    assert expected.shape == (1, 6)
    for window in (arrays, tables, paths, [str(path) for path in paths]):
        assert np.array_equal(bundle.predict(*window), expected)


def test_predicting_leaves_nothing_but_the_submission(
    eeg_only: Exported, competition_writer: Callable[..., Path], tmp_path: Path
) -> None:
    folder = competition_writer(tmp_path / "new", splits=("test",), spectrograms=False, test_recordings=4)
    before = sorted(folder.rglob("*"))
    table = pd.read_csv(
        predict(load_bundle(eeg_only.path, device="cpu"), folder, out=tmp_path / "submission.csv")
    )
    assert len(table) == 4
    assert sorted(folder.rglob("*")) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "submission.csv"]


@pytest.mark.skipif(not REAL_EEG.is_dir(), reason="the real recordings are not on this machine")
def test_real_recordings_without_spectrograms_give_valid_rows(eeg_only: Exported, tmp_path: Path) -> None:
    table = pd.read_csv(
        predict(load_bundle(eeg_only.path, device="cpu"), REAL_EEG, out=tmp_path / "submission.csv")
    )
    assert len(table) == 24
    values = table[list(VOTE_COLUMNS)].to_numpy()
    assert np.abs(values.sum(axis=1) - 1).max() < 1e-6
    assert len(np.unique(values, axis=0)) == 24


def test_a_model_of_spectrograms_refuses_a_folder_without(
    exported: Exported, competition_writer: Callable[..., Path], tmp_path: Path
) -> None:
    folder = competition_writer(tmp_path / "new", splits=("test",), spectrograms=False)
    with pytest.raises(BundleError, match="reads spectrograms"):
        predict(load_bundle(exported.path, device="cpu"), folder, out=tmp_path / "submission.csv")
    assert not (tmp_path / "submission.csv").exists()


def test_train_rows_are_predicted_once_per_eeg(eeg_only: Exported, root: Path, tmp_path: Path) -> None:
    out = predict(load_bundle(eeg_only.path, device="cpu"), root, split="train", out=tmp_path / "train.csv")
    assert pd.read_csv(out)["eeg_id"].tolist() == list(range(1000, 1016))


def test_full_weights_are_chosen_by_name_only(exported: Exported, eeg_only: Exported) -> None:
    assert len(load_bundle(exported.path, device="cpu").networks) == 2
    assert len(load_bundle(exported.path, device="cpu", weights="full").networks) == 1
    with pytest.raises(BundleError, match="no full weights"):
        load_bundle(eeg_only.path, device="cpu", weights="full")


def test_an_interrupted_export_goes_on_and_gives_the_same_bundle(
    eeg_only: Exported, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hms_tune.export.export.export_onnx", no_graph)
    winner = Winner(study="tiny", number=6, config=make_config("test_efficientnet", kaggle=False), value=None)
    out = tmp_path / "again"

    def interrupt(event: Event) -> None:
        if isinstance(event, FoldEnded):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_best(winner, store, out, device="cpu", checkpoint_every_s=0.0, on_event=interrupt)
    assert not out.exists()
    events: list[Event] = []
    again = export_best(winner, store, out, device="cpu", on_event=events.append)
    assert getattr(events[0], "replayed", False)
    for name in ("fold_0.safetensors", "fold_1.safetensors"):
        assert file_digest(out / name) == file_digest(eeg_only.path / name)
    assert again.scores == eeg_only.scores
    assert again.onnx is None
    assert not (out / "model.onnx").exists()


def test_an_existing_folder_is_never_overwritten(exported: Exported, store: Store) -> None:
    winner = Winner(study="tiny", number=5, config=make_config("test_resnet", kaggle=True), value=1.5)
    with pytest.raises(UsageError, match="already exists"):
        export_best(winner, store, exported.path, device="cpu")


def test_a_changed_or_missing_file_is_found(copy: Path) -> None:
    weights = copy / "fold_1.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(BundleError, match=r"fold_1\.safetensors: differs from what was exported"):
        load_bundle(copy, device="cpu")
    weights.unlink()
    with pytest.raises(BundleError, match="is missing from the bundle"):
        load_bundle(copy, device="cpu")


def test_a_pickle_is_refused_under_any_name(copy: Path, tmp_path: Path) -> None:
    class Attack:
        def __reduce__(self) -> tuple[object, ...]:
            return Path.touch, (tmp_path / "executed",)

    config = json.loads((copy / "config.json").read_text())
    for name in ("fold_0.pt", "../fold_0.safetensors", "/tmp/fold_0.safetensors", "fold_0.pkl"):
        listed = config | {"files": config["files"] | {name: "0"}}
        (copy / "config.json").write_text(json.dumps(listed))
        with pytest.raises(BundleError, match="has no place in a bundle"):
            load_bundle(copy, device="cpu")
    disguised = copy / "fold_0.safetensors"
    disguised.write_bytes(pickle.dumps(Attack()))
    config["sizes"][disguised.name] = disguised.stat().st_size
    config["files"][disguised.name] = file_digest(disguised)
    (copy / "config.json").write_text(sealed(config))
    with pytest.raises(BundleError, match="do not fit"):
        load_bundle(copy, device="cpu")
    assert not (tmp_path / "executed").exists()


def test_a_configuration_that_was_changed_is_refused_sealed_anew_or_not(copy: Path) -> None:
    config = json.loads((copy / "config.json").read_text())
    config["trial"] += 1
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(BundleError, match=r"config\.json differs from what was exported"):
        load_bundle(copy, device="cpu")
    config["classes"] = config["classes"][::-1]
    (copy / "config.json").write_text(sealed(config))
    with pytest.raises(BundleError, match="the classes are not Seizure, LPD"):
        load_bundle(copy, device="cpu")


def test_a_configuration_or_weights_beyond_all_size_are_refused_unread(copy: Path) -> None:
    config = json.loads((copy / "config.json").read_text())
    weights = copy / "fold_0.safetensors"
    with weights.open("ab") as file:
        file.truncate(1 << 40)
    with pytest.raises(BundleError, match=r"fold_0\.safetensors: differs from what was exported"):
        load_bundle(copy, device="cpu")
    with pytest.raises(BundleError, match="they take more than"):
        load_network(TrialConfig.model_validate(config["config"]), weights)
    with (copy / "config.json").open("ab") as file:
        file.truncate(1 << 40)
    with pytest.raises(BundleError, match="cannot be read"):
        load_bundle(copy, device="cpu")


def test_weights_of_another_network_are_refused_before_it_is_built(copy: Path) -> None:
    config = json.loads((copy / "config.json").read_text())["config"]
    config["model"]["backbone"] = "regnety_1280"  # 2.5 GB
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(BundleError, match=r"do not fit the model: backbone\..* has shape .*, not .*"):
        load_network(TrialConfig.model_validate(config), copy / "fold_0.safetensors")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500 << 10


@pytest.mark.parametrize("name", ["config.json", "fold_0.safetensors"])
def test_a_pipe_in_a_bundle_is_not_waited_for(copy: Path, name: str) -> None:
    (copy / name).unlink()
    os.mkfifo(copy / name)
    with pytest.raises(BundleError, match=name):
        load_bundle(copy, device="cpu")


def test_a_folder_that_is_no_bundle_is_named(tmp_path: Path, copy: Path) -> None:
    with pytest.raises(BundleError, match="there is no such folder"):
        load_bundle(tmp_path / "absent")
    with pytest.raises(BundleError, match="is not a bundle"):
        load_bundle(tmp_path)
    (copy / "config.json").write_text('{"format": 2}')
    with pytest.raises(BundleError, match="format"):
        load_bundle(copy)


def test_windows_that_cannot_be_predicted_are_refused(eeg_only: Exported) -> None:
    bundle = load_bundle(eeg_only.path, device="cpu")
    good = np.random.default_rng(0).normal(0, 30, (2, 10_000, 20))
    with pytest.raises(SignalError, match="expected"):
        bundle.predict(good.transpose(0, 2, 1))
    with pytest.raises(SignalError, match="9999 samples"):
        bundle.predict(good[:, :9999])
    infinite, empty = good.copy(), good.copy()
    infinite[1, 5, 3] = np.inf
    empty[0] = np.nan
    with pytest.raises(SignalError, match="window 1: EEG holds infinite"):
        bundle.predict(infinite)
    with pytest.raises(SignalError, match="window 0: EEG holds no value"):
        bundle.predict(empty)
    assert bundle.predict(good[:0]).shape == (0, 6)
    longer = np.concatenate([good[:, :500] * 0, good, good[:, :500] * 0], axis=1)
    assert np.array_equal(bundle.predict(longer), bundle.predict(good))


def test_a_recording_without_a_value_is_refused_by_the_command_as_it_is_in_python(
    eeg_only: Exported, root: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(root, tmp_path / "folder")
    silent = folder / "test_eegs/3001.parquet"
    table = pq.read_table(silent)
    nan = pa.array(np.full(table.num_rows, np.nan, np.float32))
    pq.write_table(pa.table(dict.fromkeys(table.column_names, nan)), silent)
    with pytest.raises(DataError, match=r"3001\.parquet: the window holds nothing but NaN on the scalp"):
        predict(load_bundle(eeg_only.path, device="cpu"), folder, out=tmp_path / "submission.csv")
    assert not (tmp_path / "submission.csv").exists()


def test_a_missing_folder_is_named_before_anything_is_written(eeg_only: Exported, tmp_path: Path) -> None:
    with pytest.raises(DataError):
        predict(
            load_bundle(eeg_only.path, device="cpu"), tmp_path / "absent", out=tmp_path / "submission.csv"
        )
    with pytest.raises(UsageError, match="no such folder"):
        predict(
            load_bundle(eeg_only.path, device="cpu"), tmp_path, out=tmp_path / "absent" / "submission.csv"
        )
    assert list(tmp_path.iterdir()) == []


def test_without_the_extra_a_line_says_how_to_get_the_graph(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(OnnxUnavailableError, match=r"pip install 'hms-tune\[onnx\]'"):
        export_onnx([], "kl", torch.zeros(2, 1, 32, 64), tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []
