"""Soft labels for rows of few votes: by whom, for whom, and what learns from them."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from hms_tune.config.study_file import StudyFile
from hms_tune.config.trial import DataConfig, TrainingConfig, TrialConfig
from hms_tune.data.folds import assign_folds, fold_rows, held_out_patients
from hms_tune.data.labels import make_labels
from hms_tune.data.soft_labels import SoftLabels, labelled_rows, soft_labels_path
from hms_tune.data.store.prepare import prepare
from hms_tune.data.store.store import Store
from hms_tune.errors import BundleError, DataError, UsageError
from hms_tune.export.bundle import load_bundle
from hms_tune.export.export import Winner, export_best
from hms_tune.export.onnx import OnnxUnavailableError
from hms_tune.export.teacher.label import label
from hms_tune.search.data_check import check_data
from hms_tune.training.cross_validation import CrossValidation
from hms_tune.training.events import CrossValidationEnded
from hms_tune.training.stages import learning_targets
from hms_tune.training.step.inference import predict_probabilities
from hms_tune.training.workspace import Workspace

DATA = {"folds": 3, "rows": "vote_vector", "min_votes": 10, "holdout": 0.2}
CONFIG = {
    "input": {"eeg": {"name": "stft", "n_fft": 256}, "image": [32, 64]},
    "model": {"backbone": "test_resnet", "pretrained": False},
    "training": {"epochs": 2, "batch_size": 4, "learning_rate": 0.01},
}


def a_config(**data: object) -> TrialConfig:
    return TrialConfig.model_validate(CONFIG | {"data": DATA | data})


def export(store: Store, out: Path, **data: object) -> Path:
    winner = Winner(study="teacher", number=4, config=a_config(**data), value=None)
    return export_best(winner, store, out, device="cpu").path


@pytest.fixture(scope="module", autouse=True)
def _without_the_extra() -> Iterator[None]:
    """Bundles have no ``model.onnx``, which takes half a minute each and has no part in this."""

    def unavailable(*_: object) -> None:
        raise OnnxUnavailableError("no model.onnx")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hms_tune.export.export.export_onnx", unavailable)
        yield


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory, competition_writer: Callable[..., Path]) -> Store:
    """The store of a competition of ten patients, which these tests label."""
    root = competition_writer(tmp_path_factory.mktemp("labelled") / "root", patients=10, seconds=60)
    return prepare(root, jobs=1)


@pytest.fixture(scope="module")
def teacher(own: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that learnt from the rows of many votes alone, without two patients."""
    return export(own, tmp_path_factory.mktemp("bundles") / "teacher")


@pytest.fixture(scope="module")
def labels(own: Store, teacher: Path) -> SoftLabels:
    done = label(teacher, own, most_votes=9, device="cpu")
    assert done.path == soft_labels_path(own.root, "teacher")
    assert (done.rows, done.patients, done.rows_in_all) == (20, 10, 40)
    return SoftLabels.read(done.path)


def test_every_label_is_of_networks_that_never_saw_the_patient(
    own: Store, teacher: Path, labels: SoftLabels
) -> None:
    config = a_config()
    taught = make_labels(own.train, rows="vote_vector", min_votes=10)
    folds = assign_folds(taught, config.data)
    saw = [set(taught.patient_id[fold_rows(folds, fold)[0]].tolist()) for fold in range(3)]
    held_out = set(held_out_patients(np.unique(taught.patient_id), share=0.2, seed=0).tolist())
    assert len(held_out) == 2
    assert set(labels.taught_by.tolist()) == set.union(*saw) == set(taught.patient_id.tolist()) - held_out

    bundle = load_bundle(teacher, device="cpu")
    data = Workspace(own, torch.device("cpu")).trial_data(a_config(min_votes=1))
    place = {
        key: row
        for row, key in enumerate(zip(data.labels.eeg_id, data.labels.eeg_offset_seconds, strict=True))
    }
    rows = np.array([place[key] for key in zip(labels.eeg_id, labels.eeg_offset_seconds, strict=True)])
    by_network = np.array(
        [
            predict_probabilities(
                [network],
                data.images.clean,
                torch.from_numpy(rows),
                training=config.training,
                device=torch.device("cpu"),
            )
            for network in bundle.networks
        ]
    )
    for number, patient in enumerate(data.labels.patient_id[rows].tolist()):
        strangers = [fold for fold in range(3) if patient not in saw[fold]]
        assert len(strangers) == (3 if patient in held_out else 1)
        np.testing.assert_allclose(
            labels.probabilities[number], by_network[strangers, number].mean(axis=0), atol=1e-5
        )
        for fold in set(range(3)) - set(strangers):
            assert np.abs(labels.probabilities[number] - by_network[fold, number]).max() > 1e-4
    assert data.labels.total_votes[rows].max() == 4


def test_rows_of_few_votes_learn_from_them_and_are_judged_by_their_votes(
    own: Store, labels: SoftLabels, tmp_path: Path
) -> None:
    config = a_config(min_votes=1, soft_labels="teacher", train_folds=1)
    taught = labelled_rows(own.train, own.root, config.data)
    few = taught.total_votes <= 9
    learnt = learning_targets(TrainingConfig(vote_prior=6.0), taught)
    np.testing.assert_allclose(learnt[few], labels.on(taught)[few])
    assert not np.isnan(learnt).any()
    plain = make_labels(own.train, rows="vote_vector", min_votes=1)
    np.testing.assert_allclose(learnt[~few], learning_targets(TrainingConfig(vote_prior=6.0), plain)[~few])

    *_, ended = CrossValidation(config, own, torch.device("cpu"), directory=tmp_path).run()
    assert isinstance(ended, CrossValidationEnded)
    np.testing.assert_allclose(ended.out_of_fold.targets, plain.targets[ended.out_of_fold.row])


def test_whoever_holds_out_a_patient_that_taught_the_labels_is_refused(
    own: Store, labels: SoftLabels
) -> None:
    same = labelled_rows(
        own.train, own.root, DataConfig.model_validate(DATA | {"min_votes": 1, "soft_labels": "teacher"})
    )
    assert not np.isnan(same.soft).all() if same.soft is not None else False
    for other in ({"holdout": 0.4}, {"fold_seed": 3}):
        config = DataConfig.model_validate(DATA | {"min_votes": 1, "soft_labels": "teacher"} | other)
        with pytest.raises(DataError, match=r"patients that are held out here taught teacher, trial 4"):
            labelled_rows(own.train, own.root, config)


def test_a_bundle_whose_networks_all_saw_a_patient_is_refused(own: Store, tmp_path: Path) -> None:
    bundle = export(own, tmp_path / "one", train_folds=1)
    with pytest.raises(UsageError, match=r"5 patients were in the training of each of its 1 networks"):
        label(bundle, own, most_votes=9, device="cpu", name="one")
    assert not soft_labels_path(own.root, "one").exists()


def test_a_bundle_of_other_data_is_refused(store: Store, teacher: Path) -> None:
    with pytest.raises(BundleError, match="is not the one that the bundle left out"):
        label(teacher, store, most_votes=9, device="cpu")


def test_a_bundle_that_learnt_from_soft_labels_teaches_nobody(
    own: Store, labels: SoftLabels, tmp_path: Path
) -> None:
    pupil = export(own, tmp_path / "pupil", min_votes=1, soft_labels="teacher", train_folds=1)
    with pytest.raises(UsageError, match="it learnt from soft labels itself"):
        label(pupil, own, most_votes=9, device="cpu")


def test_labels_that_are_not_there_or_of_other_rows_are_named(own: Store, labels: SoftLabels) -> None:
    absent = DataConfig.model_validate(DATA | {"soft_labels": "absent"})
    with pytest.raises(DataError, match=r"soft_labels/absent\.parquet: there are no such soft labels"):
        labelled_rows(own.train, own.root, absent)
    other_rows = DataConfig.model_validate(DATA | {"rows": "eeg", "soft_labels": "teacher"})
    with pytest.raises(DataError, match=r"they are of data\.rows: vote_vector, not eeg"):
        labelled_rows(own.train, own.root, other_rows)
    (own.root / "soft_labels" / "broken.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match="these are no soft labels"):
        labelled_rows(own.train, own.root, DataConfig.model_validate(DATA | {"soft_labels": "broken"}))


def test_other_soft_labels_are_other_data_for_a_study(own: Store, labels: SoftLabels, tmp_path: Path) -> None:
    text = "study: pupil\ndata: {folds: 3, rows: vote_vector, holdout: 0.2, soft_labels: NAME}\n"
    before = check_data(StudyFile.parse(text.replace("NAME", "teacher"), "test"), own)
    shutil.copy(soft_labels_path(own.root, "teacher"), soft_labels_path(own.root, "again"))
    same = check_data(StudyFile.parse(text.replace("NAME", "again"), "test"), own)
    without = check_data(StudyFile.parse(text.replace(", soft_labels: NAME", ""), "test"), own)
    assert before.folds == same.folds
    assert before.folds != without.folds


def test_a_configuration_without_them_has_the_hash_that_it_always_had() -> None:
    assert "soft_labels" not in TrialConfig().canonical_json()
    assert TrialConfig().hash != a_config(soft_labels="teacher").hash
    assert DataConfig(soft_labels="teacher").model_dump()["soft_labels"] == "teacher"
