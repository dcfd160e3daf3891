"""Blends of bundles: written, opened, refused; and what is averaged at prediction."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import hms_tune
from hms_tune.data.schema import CLASSES
from hms_tune.errors import BundleError, UsageError
from hms_tune.export.adjustment import Adjustment, effect, tempered
from hms_tune.export.blend import BLEND, load_bundle, write_blend
from hms_tune.export.out_of_fold import out_of_fold_table, read_out_of_fold
from hms_tune.export.predict import predict
from hms_tune.export.test_time import changes
from hms_tune.training.events import OutOfFold
from tests.bundles import sealed, write_bundle

REAL_EEG = Path(__file__).resolve().parents[4] / "shared/real_eeg"
ROWS, PATIENTS = 60, 20


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True), np.float32)


def predictions(seed: int, *, noise: float = 1.0, first_eeg: int = 1000) -> pd.DataFrame:
    """Out-of-fold predictions of a model whose errors are its own."""
    truth = np.random.default_rng(0).normal(0, 1.5, (ROWS, len(CLASSES)))
    guess = truth + np.random.default_rng(seed).normal(0, noise, truth.shape)
    return out_of_fold_table(
        OutOfFold(
            row=np.arange(ROWS),
            eeg_id=first_eeg + np.arange(ROWS),
            patient_id=np.arange(ROWS) % PATIENTS,
            fold=np.arange(ROWS) % 5,
            probabilities=softmax(guess),
            targets=softmax(truth),
            total_votes=np.full(ROWS, 10),
        )
    )


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of two models that help each other, and one that is wrong."""
    folder = tmp_path_factory.mktemp("bundles")
    for number, noise in enumerate((1.0, 1.0, 8.0), start=5):
        write_bundle(
            folder / f"tiny-{number}",
            trial=number,
            oof={
                "oof.parquet": predictions(number, noise=noise),
                "oof_swap.parquet": predictions(number, noise=0.8 * noise),
            },
        )
    return folder


@pytest.fixture
def three(written: Path, tmp_path: Path) -> list[Path]:
    """Copies of these."""
    shutil.copytree(written, tmp_path, dirs_exist_ok=True)
    return [tmp_path / f"tiny-{number}" for number in (5, 6, 7)]


def eeg(n: int = 3) -> np.ndarray:
    return np.random.default_rng(7).normal(0, 30, (n, 10_000, 20)).astype(np.float32)


def test_a_blend_is_the_weighted_mean_of_the_bundles_that_help(three: list[Path], tmp_path: Path) -> None:
    found = write_blend(three, tmp_path / "blend", most=2)
    assert found.weights[2] == 0.0
    assert found.kl < found.single_kl
    blend = hms_tune.load_bundle(tmp_path / "blend", device="cpu")
    parts = [load_bundle(path, device="cpu").predict(eeg()) for path in three]
    expected = np.tensordot(found.weights, parts, axes=1)
    np.testing.assert_allclose(blend.predict(eeg()), expected, atol=1e-6)
    np.testing.assert_allclose(blend.predict(eeg(), batch_size=2), expected, atol=1e-5)
    assert sorted(path.name for path in (tmp_path / "blend").iterdir()) == [BLEND, "member-1", "member-2"]


def test_the_fewest_bundles_can_be_asked_for(three: list[Path], tmp_path: Path) -> None:
    found = write_blend(three, tmp_path / "blend", most=1)
    assert sorted(found.weights) == [0.0, 0.0, 1.0]


def test_bundles_of_other_rows_are_not_blended(three: list[Path], tmp_path: Path) -> None:
    other = write_bundle(tmp_path / "other", oof={"oof.parquet": predictions(1, first_eeg=9000)})
    with pytest.raises(BundleError, match="out-of-fold rows are not those of"):
        write_blend([three[0], other], tmp_path / "blend")
    assert not (tmp_path / "blend").exists()
    assert not list(tmp_path.glob(".blend*"))


def test_bundles_of_other_votes_are_not_blended(three: list[Path], tmp_path: Path) -> None:
    table = predictions(1)
    table["seizure_target"] += 0.1
    other = write_bundle(tmp_path / "other", oof={"oof.parquet": table})
    with pytest.raises(BundleError, match="targets are not those of"):
        write_blend([three[0], other], tmp_path / "blend")


def test_a_bundle_whose_predictions_name_no_patients_says_what_to_do(
    three: list[Path], tmp_path: Path
) -> None:
    old = write_bundle(tmp_path / "old", oof={"oof.parquet": predictions(1).drop(columns=["patient_id"])})
    with pytest.raises(
        BundleError, match=r"patient_id: an earlier version wrote it\. Export the trial again"
    ):
        write_blend([three[0], old], tmp_path / "blend")


def test_an_exchanged_member_is_found(three: list[Path], tmp_path: Path) -> None:
    write_blend(three[:2], tmp_path / "blend")
    member = tmp_path / "blend/member-1"
    for path in member.iterdir():
        path.unlink()
    for path in three[2].iterdir():
        (member / path.name).write_bytes(path.read_bytes())
    with pytest.raises(BundleError, match="is not the bundle that was blended"):
        load_bundle(tmp_path / "blend", device="cpu")


@pytest.mark.parametrize(
    ("key", "value"), [("hms_tune", "9"), ("members", []), ("score", {"kl": 0.0}), ("format", 2)]
)
def test_a_changed_blend_is_refused(three: list[Path], tmp_path: Path, key: str, value: object) -> None:
    write_blend(three[:2], tmp_path / "blend")
    path = tmp_path / "blend" / BLEND
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    with pytest.raises(BundleError, match=r"blend\.json"):
        load_bundle(tmp_path / "blend", device="cpu")


def test_what_a_bundle_does_not_name_is_not_copied(three: list[Path], tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("PRIVATE")
    (three[0] / "notes").symlink_to(secret)
    write_blend(three[:2], tmp_path / "blend")
    assert not list((tmp_path / "blend").rglob("notes"))


def test_a_bundle_whose_predictions_were_changed_is_found_before_they_are_read(
    three: list[Path], tmp_path: Path
) -> None:
    (three[0] / "oof.parquet").write_bytes(b"no parquet")
    with pytest.raises(BundleError, match="differs from what was exported"):
        write_blend(three, tmp_path / "blend")


def damaged(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-300] + b"x" * 296 + b"PAR1")


def with_column(name: str, column: pa.Array) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        table = pq.read_table(path)
        pq.write_table(table.set_column(table.schema.get_field_index(name), name, column), path)

    return write


def of_rows(count: int) -> Callable[[Path], None]:
    """Rows of equal values, which take next to nothing in the file."""

    def write(path: Path) -> None:
        schema = pq.read_schema(path)
        pq.write_table(
            pa.table({field.name: pa.repeat(pa.scalar(0, field.type), count) for field in schema}), path
        )

    return write


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (damaged, "cannot be read"),
        (lambda path: path.write_bytes(b""), "cannot be read"),
        (of_rows(2_000_001), "it has 2,000,001 rows, more than 2,000,000"),
        (with_column("row", pa.array(["a"] * ROWS)), "row holds string"),
        (with_column("gpd_target", pa.array([[1.0]] * ROWS)), "gpd_target holds list"),
        (with_column("patient_id", pa.array([None] * ROWS, pa.int64())), "a cell is empty"),
        (with_column("lpd_probability", pa.array([np.nan] * ROWS)), "a number is not finite"),
    ],
)
def test_predictions_that_are_none_are_named_with_their_file(
    tmp_path: Path, spoil: Callable[[Path], None], said: str
) -> None:
    bundle = write_bundle(tmp_path / "bundle", networks=1, oof={"oof.parquet": predictions(1)})
    spoil(bundle / "oof.parquet")
    with pytest.raises(BundleError, match=rf"bundle/oof\.parquet: cannot be read \(.*{said}|{said}"):
        read_out_of_fold(bundle)


def test_columns_that_nobody_asked_for_are_not_decoded(tmp_path: Path) -> None:
    table = predictions(1)
    table["note"] = "x" * (1 << 20)
    bundle = write_bundle(tmp_path / "bundle", networks=1, oof={"oof.parquet": table})
    before = pa.default_memory_pool().max_memory()
    assert len(read_out_of_fold(bundle).eeg_id) == ROWS
    assert pa.default_memory_pool().max_memory() == before  # 63 MB of notes were written


@pytest.mark.parametrize("name", [BLEND, "member-1/config.json", "member-1/oof.parquet"])
def test_a_pipe_in_a_blend_is_not_waited_for(three: list[Path], tmp_path: Path, name: str) -> None:
    write_blend(three[:2], tmp_path / "blend")
    (tmp_path / "blend" / name).unlink()
    os.mkfifo(tmp_path / "blend" / name)
    with pytest.raises(BundleError):
        load_bundle(tmp_path / "blend", device="cpu")
    with pytest.raises(BundleError):
        effect(tmp_path / "blend", (), 1.0)


def test_a_member_named_twice_is_refused(three: list[Path], tmp_path: Path) -> None:
    write_blend(three[:1] * 2, tmp_path / "blend", most=1)
    path = tmp_path / "blend" / BLEND
    config = json.loads(path.read_text())
    config["members"] = [{**config["members"][0], "weight": 0.5}] * 2
    path.write_text(sealed(config))
    with pytest.raises(BundleError, match="named twice"):
        load_bundle(tmp_path / "blend", device="cpu")


def test_a_folder_in_use_is_left_alone(three: list[Path], tmp_path: Path) -> None:
    (tmp_path / "blend").mkdir()
    with pytest.raises(UsageError, match="already exists"):
        write_blend(three, tmp_path / "blend")
    assert not list((tmp_path / "blend").iterdir())


def test_swapped_hemispheres_are_averaged_with_the_signals_as_they_are(three: list[Path]) -> None:
    bundle = load_bundle(three[0], device="cpu")
    signals = torch.from_numpy(eeg()).transpose(1, 2).contiguous()
    mirrored = bundle.probabilities(signals, None, changes(["swap"], bundle.inputs)[1])
    as_they_are = bundle.probabilities(signals, None)
    assert not np.allclose(mirrored, as_they_are, atol=1e-4)
    both = Adjustment(("swap",)).predict(bundle, signals, None)
    np.testing.assert_allclose(both, (mirrored + as_they_are) / 2, atol=1e-6)


def test_a_window_of_all_that_is_read_cannot_be_shifted(three: list[Path]) -> None:
    with pytest.raises(UsageError, match="cannot be shifted"):
        changes(["shift"], load_bundle(three[0], device="cpu").inputs)


def test_a_temperature_keeps_the_order_of_classes_and_the_sum() -> None:
    probabilities = softmax(np.random.default_rng(0).normal(0, 2, (50, 6)))
    milder = tempered(probabilities, 2.0)
    np.testing.assert_allclose(milder.sum(axis=1), 1.0, atol=1e-6)
    assert (milder.argsort(axis=1) == probabilities.argsort(axis=1)).all()
    assert (milder.max(axis=1) < probabilities.max(axis=1)).all()


def test_what_an_adjustment_does_is_known_from_the_predictions_that_lie_in_the_bundle(
    three: list[Path], tmp_path: Path
) -> None:
    swap = effect(three[0], ["swap"], 1.0)
    assert swap.after < swap.before
    assert swap.gain is not None
    assert swap.gain[0] < swap.before - swap.after < swap.gain[1]
    wrong = effect(three[2], [], None)
    assert wrong.fitted > 2.0
    assert wrong.after < wrong.before
    write_blend(three, tmp_path / "blend")
    assert effect(tmp_path / "blend", ["swap"], 1.0).before < swap.before
    with pytest.raises(UsageError, match="the window cannot be shifted: a model reads all of it"):
        effect(three[0], ["shift"], 1.0)


@pytest.mark.skipif(not REAL_EEG.is_dir(), reason="the real recordings are not on this machine")
def test_a_blend_predicts_real_recordings(three: list[Path], tmp_path: Path) -> None:
    write_blend(three, tmp_path / "blend")
    model = load_bundle(tmp_path / "blend", device="cpu")
    plain = pd.read_csv(predict(model, REAL_EEG, out=tmp_path / "plain.csv"))
    assert len(plain) == 24
    np.testing.assert_allclose(plain.iloc[:, 1:].sum(axis=1), 1.0, atol=1e-5)
    change = Adjustment(("swap",), 1.5)
    changed = pd.read_csv(predict(model, REAL_EEG, out=tmp_path / "changed.csv", change=change))
    assert list(changed["eeg_id"]) == list(plain["eeg_id"])
    assert changed.iloc[:, 1:].max(axis=1).mean() < plain.iloc[:, 1:].max(axis=1).mean()
