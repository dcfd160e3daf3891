"""Out-of-fold predictions of trials in the fleet's store, and the trials that are chosen by them."""

from __future__ import annotations

import io
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from hms_tune.errors import ArtifactError
from hms_tune.export.blend import choose_trials
from hms_tune.studies.predictions import arrays_of
from hms_tune.training.events import EpochScores, OutOfFold
from hms_tune.training.scores import kl_divergence
from hms_tune.worker.checkpoint_store.checkpoints import Artifacts
from hms_tune.worker.checkpoint_store.open import open_store
from hms_tune.worker.checkpoint_store.predictions import KeptPredictions


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True), np.float32)


def predictions(seed: int, noise: float = 1.0, rows: int = 80) -> OutOfFold:
    truth = np.random.default_rng(0).normal(0, 2, (rows, 6))
    guess = truth + np.random.default_rng(seed).normal(0, noise, truth.shape)
    return OutOfFold(
        row=np.arange(rows),
        eeg_id=np.arange(rows) + 10**9,
        patient_id=np.arange(rows) // 4,
        fold=np.arange(rows) % 3,
        probabilities=softmax(guess),
        targets=softmax(truth),
        total_votes=np.full(rows, 7),
        epochs=EpochScores(
            fold=np.arange(rows // 4) % 3,
            patient_id=np.arange(rows // 4),
            rows=np.full(rows // 4, 4),
            kl=np.random.default_rng(seed).gamma(2.0, 0.5, (3, rows // 4)).astype(np.float32),
        ),
    )


@pytest.fixture
def kept(tmp_path: Path) -> KeptPredictions:
    return KeptPredictions(open_store(str(tmp_path / "store")), "effnet")


def test_what_is_kept_comes_back_to_three_digits(kept: KeptPredictions) -> None:
    first = predictions(1)
    kept.keep(12, first)
    again = kept.of(12)
    assert kept.trials() == {12}
    for name in ("row", "eeg_id", "patient_id", "fold", "total_votes"):
        assert np.array_equal(getattr(again, name), getattr(first, name))
    assert first.epochs is not None
    assert again.epochs is not None
    for name in EpochScores.__dataclass_fields__:
        assert np.array_equal(getattr(again.epochs, name), getattr(first.epochs, name))
    assert np.abs(again.probabilities - first.probabilities).max() < 1e-3
    np.testing.assert_allclose(again.probabilities.sum(axis=1), 1.0, atol=1e-6)
    assert kl_divergence(again.targets, again.probabilities) == pytest.approx(
        kl_divergence(first.targets, first.probabilities), abs=1e-3
    )


def test_what_an_earlier_version_kept_is_read_and_says_nothing_of_epochs(kept: KeptPredictions) -> None:
    kept.keep(12, replace(predictions(1), epochs=None))
    assert kept.of(12).epochs is None


def test_checkpoints_and_predictions_do_not_touch_each_other(kept: KeptPredictions, tmp_path: Path) -> None:
    kept.keep(3, predictions(1))
    artifacts = Artifacts(kept.store, tmp_path / "scratch", "effnet")
    assert artifacts.present() == frozenset()
    artifacts.remove([3])
    artifacts.remove_all()
    assert kept.trials() == {3}
    kept.remove_all()
    assert kept.trials() == frozenset()


def test_damaged_or_missing_predictions_are_named(kept: KeptPredictions, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError):
        kept.of(4)
    kept.keep(4, predictions(1))
    (tmp_path / "store/effnet/out-of-fold/trial-4.npz").write_bytes(b"PK no more")
    with pytest.raises(ArtifactError, match=r"trial-4\.npz: is damaged"):
        kept.of(4)


def test_predictions_of_another_shape_are_refused(kept: KeptPredictions, tmp_path: Path) -> None:
    first = predictions(1)
    kept.keep(4, replace(first, probabilities=first.probabilities[:5]))
    with pytest.raises(ArtifactError, match="is damaged"):
        kept.of(4)


def test_trials_that_help_each_other_are_chosen_and_others_left_out(
    caplog: pytest.LogCaptureFixture,
) -> None:
    trials = {5: predictions(1), 2: predictions(2), 9: predictions(3, noise=9.0), 4: predictions(4, rows=40)}
    assert sorted(choose_trials(trials, most=2)) == [2, 5]
    assert caplog.messages == ["left out of the blend, judged on other rows than trial 5: trials 4"]


@pytest.mark.parametrize(
    "changed",
    [
        {"probabilities": np.full((80, 6), "text")},
        {"probabilities": np.zeros((80, 6), "V3")},
        {"targets": np.full((80, 6), np.nan)},
        {"targets": np.full((80, 6), -1.0)},
        {"patient_id": np.zeros(1, np.int64)},
        {"total_votes": np.full((80, 2), 12)},
        {"row": np.full(80, np.nan)},
        {"epochs_kl": np.full((3, 19), 1.0, np.float32)},
        {"epochs_kl": np.full((3, 20), np.inf, np.float32)},
        {"epochs_rows": np.zeros(20, np.int64)},
        {"epochs_patient_id": np.full(20, 0.5)},
    ],
)
def test_what_another_wrote_into_the_shared_folder_is_refused_in_a_sentence(
    changed: dict[str, NDArray[Any]], kept: KeptPredictions, tmp_path: Path
) -> None:
    good = predictions(1)
    arrays = arrays_of(good)
    kept.keep(4, good)
    path = tmp_path / "store/effnet/out-of-fold/trial-4.npz"
    np.savez(path, **(arrays | changed))
    with pytest.raises(ArtifactError, match="is damaged"):
        kept.of(4)


def test_predictions_that_claim_rows_without_bytes_take_no_memory(
    kept: KeptPredictions, tmp_path: Path
) -> None:
    """Ten billion rows of nothing, in half a kilobyte, became an array of 224 GiB."""
    kept.keep(4, predictions(1))
    path = tmp_path / "store/effnet/out-of-fold/trial-4.npz"
    with zipfile.ZipFile(path, "w") as members:
        for name in arrays_of(predictions(1)):
            shape = (10**10, 6) if name in ("probabilities", "targets") else (10**10,)
            header = io.BytesIO()
            described = {"descr": "|V0", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(header, described)
            members.writestr(f"{name}.npy", header.getvalue())
    with pytest.raises(ArtifactError, match="is damaged"):
        kept.of(4)


def test_a_member_that_is_no_array_is_refused(kept: KeptPredictions, tmp_path: Path) -> None:
    kept.keep(4, predictions(1))
    path = tmp_path / "store/effnet/out-of-fold/trial-4.npz"
    with zipfile.ZipFile(path, "w") as members:
        for name in arrays_of(predictions(1)):
            members.writestr(name, "no array")
    with pytest.raises(ArtifactError, match="is damaged"):
        kept.of(4)
